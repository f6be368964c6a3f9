//! Where the bucket is, and the client for it.
//! Knows nothing of what is kept there.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use object_store::BackoffConfig;
use object_store::ClientOptions;
use object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::PutPayload;
use object_store::RetryConfig;
use object_store::aws::AmazonS3Builder;
use object_store::aws::AmazonS3ConfigKey;
use object_store::path::Path;

/// A bucket, and how to reach it.
#[derive(Clone)]
pub struct S3Options {
    /// `s3://bucket` or `s3://bucket/prefix`.
    pub url: String,
    /// `https://host[:port]`, where it is not Amazon's; `http` only of this machine. Overrides the environment.
    pub endpoint: Option<String>,
    /// Overrides the environment.
    pub region: Option<String>,
    /// Of these, the variables `AWS_*` tell endpoint, region and credentials as they do everywhere
    /// (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …).
    pub environment: Vec<(String, String)>,
}

/// Without the environment, which holds secrets.
impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, endpoint, region, environment: _ } = self;
        f.debug_struct("S3Options")
            .field("url", url)
            .field("endpoint", endpoint)
            .field("region", region)
            .finish()
    }
}

/// How long the bucket may take to take up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one request may take; none carries more than a part of a blob.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// No request is tried again that began so long ago.
const RETRY_TIMEOUT: Duration = Duration::from_secs(8);
const RETRIES: usize = 3;

impl S3Options {
    /// Bucket and prefix of the URL.
    fn place(&self) -> anyhow::Result<(&str, Path)> {
        let rest = self.url.strip_prefix("s3://");
        let (bucket, prefix) =
            rest.map(|rest| rest.split_once('/').unwrap_or((rest, ""))).unwrap_or_default();
        ensure!(
            !bucket.is_empty(),
            "use the bucket {:?}: its URL is written s3://BUCKET or s3://BUCKET/PREFIX",
            self.url
        );
        let prefix = Path::parse(prefix).with_context(|| format!("use the prefix of {}", self.url))?;
        Ok((bucket, prefix))
    }

    /// The client for the bucket, and the prefix in it.
    fn open(&self) -> anyhow::Result<(Arc<dyn ObjectStore>, Path)> {
        // Someone else in this process may have chosen it before, who chose the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (bucket, prefix) = self.place()?;
        let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        let retry = RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT };
        let mut builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
        for (name, value) in self.environment.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            // Other programs' variables begin with AWS_ too.
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        builder = builder.with_bucket_name(bucket);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let is_http = endpoint.as_deref().map(check_endpoint).transpose()?.unwrap_or(false);
        let objects = builder.with_allow_http(is_http).build();
        Ok((Arc::new(objects.with_context(|| format!("use {}", self.url))?), prefix))
    }

    /// The client for the bucket, and the prefix in it; tried out as far as the bucket answers.
    ///
    /// # Errors
    /// When options or environment make no sense, or the bucket is not there or may not be used. One that does not
    /// answer is none: it may come up later than this server.
    pub(super) async fn connect(&self) -> anyhow::Result<(Arc<dyn ObjectStore>, Path)> {
        let (objects, prefix) = self.open()?;
        match try_out(&*objects, &prefix).await {
            Ok(()) => {}
            Err(error @ object_store::Error::NotFound { .. }) => {
                return Err(error).with_context(|| format!("find the bucket of {}", self.url));
            }
            Err(
                error @ (object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }),
            ) => {
                return Err(error).with_context(|| {
                    format!(
                        "use {}: the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) must be right and allow \
                         ListBucket, GetObject, PutObject and DeleteObject",
                        self.url
                    )
                });
            }
            Err(error) => tracing::warn!("{} does not answer yet: {error}", self.url),
        }
        Ok((objects, prefix))
    }
}

/// Puts an object and asks for one that is not there: without the right to list, a missing object is a forbidden one to
/// S3, and not even a missing bucket can be told from a missing object by asking.
async fn try_out(objects: &dyn ObjectStore, prefix: &Path) -> object_store::Result<()> {
    objects.put(&prefix.clone().join("probe"), PutPayload::from_static(b"farcc")).await?;
    match objects.head(&prefix.clone().join("absent")).await {
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the endpoint is in clear text, which it may be only on this machine.
fn check_endpoint(endpoint: &str) -> anyhow::Result<bool> {
    let uri: hyper::Uri = endpoint.parse().with_context(|| format!("read the S3 endpoint {endpoint:?}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(false),
        Some("http") if is_here => Ok(true),
        Some("http") => bail!(
            "use the S3 endpoint {endpoint}: beyond this machine blobs would travel in clear text. Use https"
        ),
        _ => bail!("read the S3 endpoint {endpoint:?}: it is written https://HOST[:PORT]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str, endpoint: Option<&str>, environment: &[(&str, &str)]) -> S3Options {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        S3Options {
            url: url.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            region: None,
            environment: environment.collect(),
        }
    }

    #[test]
    fn urls() {
        for (url, bucket, prefix) in [
            ("s3://bucket", "bucket", ""),
            ("s3://bucket/", "bucket", ""),
            ("s3://bucket/team/farcc", "bucket", "team/farcc"),
        ] {
            let options = options(url, None, &[]);
            let place = options.place().unwrap();
            assert_eq!((place.0, place.1.as_ref()), (bucket, prefix));
        }
        for url in ["", "bucket", "s3://", "s3:///prefix", "https://bucket", "s3://bucket/a//b"] {
            assert!(options(url, None, &[]).place().is_err(), "{url}");
        }
    }

    #[test]
    fn clear_text_stays_on_this_machine() {
        for endpoint in ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"] {
            assert!(check_endpoint(endpoint).unwrap());
        }
        assert!(!check_endpoint("https://s3.example").unwrap());
        for endpoint in ["http://s3.example", "http://10.0.0.1:9000", "s3.example", "ftp://s3.example", ""] {
            assert!(check_endpoint(endpoint).is_err(), "{endpoint}");
        }
        // The environment's endpoint counts as well, and so does no variable that allows more.
        let environment = [("AWS_ENDPOINT_URL", "http://s3.example"), ("AWS_ALLOW_HTTP", "true")];
        assert!(options("s3://bucket", None, &environment).open().is_err());
        options("s3://bucket", Some("https://s3.example"), &environment).open().unwrap();
    }

    #[test]
    fn secrets_are_not_printed() {
        let options = options("s3://bucket", None, &[("AWS_SECRET_ACCESS_KEY", "s3cret")]);
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
