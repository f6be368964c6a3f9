//! The addresses of a cluster's services, as other clients write them, in farcc's words.
//! Knows no client's schemes: each says for itself what is TLS.

use crate::cli::import::draft::Draft;
use crate::cli::import::draft::Key;

/// The addresses of the services, as a client has them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// None where the cluster is only a cache.
    pub(super) engine: Option<Address>,
    pub(super) cas: Option<Address>,
    pub(super) action_cache: Option<Address>,
}

/// One address as farcc.toml has it, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    text: String,
    notes: Vec<String>,
}

impl Address {
    /// A socket: `unix:` and a path.
    pub(super) fn unix(path: &str) -> Address {
        Address { text: format!("unix:{path}"), notes: Vec::new() }
    }

    /// A host, with what stood behind it. `default_port` is what the client takes where plaintext has none; TLS has
    /// 443 everywhere.
    pub(super) fn host(rest: &str, tls: bool, default_port: u16) -> Address {
        let mut notes = Vec::new();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            notes.push("a path stood behind the host: it is left out".to_owned());
        }
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => {
                notes.push("a user stood in front of the host: it is left out".to_owned());
                host
            }
            None => authority,
        };
        let scheme = if tls { "grpcs" } else { "grpc" };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = match has_port || tls {
            true => String::new(),
            // A variable may hold the port as well.
            false if host.starts_with('$') => String::new(),
            false => {
                notes.push("there was no port".to_owned());
                format!(":{default_port}")
            }
        };
        if host.starts_with('$') && !has_port {
            notes.push("the variable must hold host:port, without a scheme".to_owned());
        }
        Address { text: format!("{scheme}://{host}{port}"), notes }
    }

    pub(super) fn noted(mut self, note: &str) -> Address {
        self.notes.push(note.to_owned());
        self
    }
}

impl Addresses {
    /// Writes those that differ.
    pub(super) fn write(self, draft: &mut Draft) {
        let cas = self.cas.or_else(|| self.engine.clone());
        let action_cache = self.action_cache.or_else(|| self.engine.clone().or_else(|| cas.clone()));
        let cas = cas.or_else(|| action_cache.clone());
        let Some(main) = self.engine.clone().or_else(|| cas.clone()) else { return };
        if self.engine.is_none() {
            draft.literal(Key::Strategy, "\"cache_only\"");
            draft.note_on(Key::Strategy, "there is no execution service in the imported file");
        }
        let mut set = |key, address: &Address| {
            draft.text(key, &address.text);
            for note in &address.notes {
                draft.note_on(key, note);
            }
        };
        set(Key::Address, &main);
        for (key, own) in [(Key::CasAddress, cas), (Key::ActionCacheAddress, action_cache)] {
            if let Some(own) = own.filter(|own| own.text != main.text) {
                set(key, &own);
            }
        }
    }
}
