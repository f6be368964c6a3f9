//! The daemon's status page over HTTP, on loopback, for the user alone:
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /` | a page for people |
//! | `GET /stats.json` | what `farccd stats --json` prints |
//! | `GET /metrics` | the same for Prometheus |
//!
//! Every request needs the token (`?token=…` or `Authorization: Bearer …`) and a `Host` that is the address
//! itself, so that no page in the user's browser can read it. Changes nothing.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::header;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::stats::Stats;
use crate::stats::Summary;

/// Any user of the machine can reach the port, so what a connection may take of the daemon is little.
const MOST_CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The page, before it is served.
pub struct StatusPage {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
}

impl StatusPage {
    /// Listens at `listen`, `address:port` with port 0 for any.
    ///
    /// # Errors
    /// When the address is not one of loopback, or cannot be listened at.
    pub async fn bind(listen: &str) -> anyhow::Result<StatusPage> {
        let wanted: SocketAddr =
            listen.parse().with_context(|| format!("parse [status] listen {listen:?}"))?;
        if !wanted.ip().is_loopback() {
            bail!("listen at {wanted}: [status] listen must be a loopback address");
        }
        let listener = TcpListener::bind(wanted).await.with_context(|| format!("listen at {wanted}"))?;
        let address = listener.local_addr().context("read the status page's address")?;
        Ok(StatusPage { listener, address, token: uuid::Uuid::new_v4().simple().to_string() })
    }

    /// Address and token, for `farccd status`.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.address, self.token)
    }

    /// Answers requests for ever.
    pub async fn serve(self, stats: Arc<Stats>) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let access = Arc::new(Access { host: self.address.to_string(), token: self.token });
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("failed to accept a status connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Whoever is one too many is hung up on: a reader comes again, an attacker stays outside.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (access, stats) = (Arc::clone(&access), Arc::clone(&stats));
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = respond(&request, &access, &stats);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                let served = http.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
                if let Err(error) = served {
                    tracing::debug!("a status connection ended: {error}");
                }
            });
        }
    }
}

struct Access {
    host: String,
    token: String,
}

impl Access {
    fn allows<B>(&self, request: &Request<B>) -> bool {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let in_query = query.split('&').find_map(|pair| pair.strip_prefix("token="));
        let token =
            in_query.or(header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")));
        header(header::HOST) == Some(self.host.as_str()) && token == Some(self.token.as_str())
    }
}

fn respond<B>(request: &Request<B>, access: &Access, stats: &Stats) -> Response<Full<Bytes>> {
    if !access.allows(request) {
        let help = "403: use the address that `farccd status` prints, with its token\n".to_owned();
        return response(StatusCode::FORBIDDEN, "text/plain", help);
    }
    if request.method() != Method::GET {
        return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405: only GET\n".to_owned());
    }
    let summary = stats.summary();
    match request.uri().path() {
        "/" => response(StatusCode::OK, "text/html; charset=utf-8", page(&summary)),
        "/stats.json" => match serde_json::to_string(&summary) {
            Ok(json) => response(StatusCode::OK, "application/json", json),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        "/metrics" => response(StatusCode::OK, "text/plain; version=0.0.4", metrics(&summary)),
        _ => response(StatusCode::NOT_FOUND, "text/plain", "404: /, /stats.json, /metrics\n".to_owned()),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// All names are farcc's own, so nothing needs to be escaped.
fn page(summary: &Summary) -> String {
    let mut html = String::from(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=5><title>farcc</title>\
         <style>body{font:14px sans-serif;margin:2em}td{padding:.1em 1em}td+td{text-align:right}</style>\
         <h1>farcc</h1>",
    );
    let mut table = |title: &str, rows: &mut dyn Iterator<Item = (&str, u64)>| {
        // Writing to a String cannot fail.
        let _ = write!(html, "<h2>{title}</h2><table>");
        for (name, count) in rows {
            let _ = write!(html, "<tr><td>{name}<td>{count}");
        }
        html.push_str("</table>");
    };
    let by_name = |map: &std::collections::BTreeMap<String, u64>| {
        map.iter().map(|(name, count)| (name.clone(), *count)).collect::<Vec<_>>()
    };
    let (verdicts, reasons) = (by_name(&summary.by_verdict), by_name(&summary.by_reason));
    table(&format!("{} commands", summary.commands), &mut verdicts.iter().map(|(n, c)| (n.as_str(), *c)));
    table("Why here", &mut reasons.iter().map(|(n, c)| (n.as_str(), *c)));
    let bytes = summary.bytes;
    let rows = [("uploaded", bytes.uploaded), ("downloaded", bytes.downloaded), ("stored", bytes.stored)];
    table("Bytes", &mut rows.into_iter());
    let micros = summary.micros;
    table(
        "Microseconds in the daemon",
        &mut [("p50", micros.p50), ("p90", micros.p90), ("p99", micros.p99)].into_iter(),
    );
    html
}

fn metrics(summary: &Summary) -> String {
    let mut text = String::new();
    let mut family =
        |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
    let label = |name: &'static str| {
        move |(value, count): (&String, &u64)| (format!("{{{name}=\"{value}\"}}"), *count)
    };
    family(
        "farcc_commands_total",
        "counter",
        "Commands that have ended, by where the result came from.",
        &mut summary.by_verdict.iter().map(label("verdict")),
    );
    family(
        "farcc_local_total",
        "counter",
        "Commands that were neither hits nor remote, by reason.",
        &mut summary.by_reason.iter().map(label("reason")),
    );
    let bytes = summary.bytes;
    let rows = [("uploaded", bytes.uploaded), ("downloaded", bytes.downloaded), ("stored", bytes.stored)];
    family(
        "farcc_bytes_total",
        "counter",
        "Bytes moved for commands.",
        &mut rows.into_iter().map(|(name, count)| (format!("{{direction=\"{name}\"}}"), count)),
    );
    let micros = summary.micros;
    let rows = [("0.5", micros.p50), ("0.9", micros.p90), ("0.99", micros.p99)];
    family(
        "farcc_command_micros",
        "gauge",
        "Time in the daemon per command, in microseconds.",
        &mut rows.into_iter().map(|(name, value)| (format!("{{quantile=\"{name}\"}}"), value)),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str, host: &str, bearer: Option<&str>) -> StatusCode {
        let access = Access { host: "127.0.0.1:1".to_owned(), token: "secret".to_owned() };
        let mut request = Request::builder().method(method).uri(uri).header(header::HOST, host);
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let stats = Stats::load(std::path::Path::new("/nonexistent"));
        respond(&request.body(()).unwrap(), &access, &stats).status()
    }

    #[test]
    fn only_the_user_is_answered() {
        let host = "127.0.0.1:1";
        assert_eq!(ask("GET", "/?token=secret", host, None), StatusCode::OK);
        assert_eq!(ask("GET", "/metrics", host, Some("secret")), StatusCode::OK);
        assert_eq!(ask("GET", "/nothing?token=secret", host, None), StatusCode::NOT_FOUND);
        assert_eq!(ask("POST", "/?token=secret", host, None), StatusCode::METHOD_NOT_ALLOWED);
        for (uri, host, bearer) in [
            ("/", host, None),
            ("/?token=secre", host, None),
            ("/", host, Some("wrong")),
            // A page that had its name point to loopback.
            ("/?token=secret", "evil.example:1", None),
        ] {
            assert_eq!(ask("GET", uri, host, bearer), StatusCode::FORBIDDEN, "{uri} {host}");
        }
    }

    #[test]
    fn metrics_have_every_verdict() {
        let text = metrics(&Stats::load(std::path::Path::new("/nonexistent")).summary());
        assert!(text.contains("farcc_commands_total{verdict=\"hit_local\"} 0\n"), "{text}");
    }

    #[tokio::test]
    async fn other_addresses_than_loopback_are_refused() {
        let error = StatusPage::bind("0.0.0.0:0").await.err().unwrap();
        assert!(error.to_string().contains("loopback"), "{error}");
    }
}
