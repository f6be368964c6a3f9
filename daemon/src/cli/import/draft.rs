//! The farcc.toml that is being made: its keys in their order, with what is to be said about them.
//! Knows how values are written and variables survive; not what the keys of other clients mean.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The place that a file was found at, for what it says relative to it.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The directory of the file, absolute.
    pub(super) directory: PathBuf,
    /// `PATH`, for programs without a directory.
    pub(super) search_path: Option<OsString>,
}

/// The keys that imports set, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::enum_variant_names, reason = "one of them is the key of a certificate")]
pub(super) enum Key {
    Address,
    CasAddress,
    ActionCacheAddress,
    InstanceName,
    CredentialHelper,
    TokenFile,
    TlsCaCerts,
    TlsClientCert,
    TlsClientKey,
    DigestFunction,
    Compression,
    Retries,
    Timeout,
    Strategy,
    AcceptCached,
    UploadLocalResults,
    Verify,
    Jobs,
    LocalJobs,
    ExecTimeout,
    Salt,
    Roots,
}

impl Key {
    /// Its section and its name there.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Key::Address => ("remote", "address"),
            Key::CasAddress => ("remote", "cas_address"),
            Key::ActionCacheAddress => ("remote", "action_cache_address"),
            Key::InstanceName => ("remote", "instance_name"),
            Key::CredentialHelper => ("remote", "credential_helper"),
            Key::TokenFile => ("remote", "token_file"),
            Key::TlsCaCerts => ("remote", "tls.ca_certs"),
            Key::TlsClientCert => ("remote", "tls.client_cert"),
            Key::TlsClientKey => ("remote", "tls.client_key"),
            Key::DigestFunction => ("remote", "digest_function"),
            Key::Compression => ("remote", "compression"),
            Key::Retries => ("remote", "retries"),
            Key::Timeout => ("remote", "timeout"),
            Key::Strategy => ("exec", "strategy"),
            Key::AcceptCached => ("exec", "accept_cached"),
            Key::UploadLocalResults => ("exec", "upload_local_results"),
            Key::Verify => ("exec", "verify"),
            Key::Jobs => ("exec", "jobs"),
            Key::LocalJobs => ("exec", "local_jobs"),
            Key::ExecTimeout => ("exec", "timeout"),
            Key::Salt => ("exec", "salt"),
            Key::Roots => ("workspace", "roots"),
        }
    }
}

/// One line of the file, and what is said above it.
#[derive(Debug, Default)]
struct Line {
    /// As TOML has it.
    value: String,
    /// Of one line each.
    notes: Vec<String>,
    /// Why it stands there as a comment only; it stands there for its reader to mend.
    unusable: bool,
}

/// The file that is being made.
#[derive(Debug)]
pub(super) struct Draft {
    place: Place,
    /// The client that takes `$NAME` as it stands, where it does.
    literal_dollar: Option<&'static str>,
    keys: BTreeMap<Key, Line>,
    headers: BTreeMap<String, Line>,
    /// By class of commands; the first is that of all.
    platform: BTreeMap<&'static str, BTreeMap<String, Line>>,
    notes: Vec<String>,
    /// Reasons in the order of their first use, each with its keys.
    dropped: Vec<(String, Vec<String>)>,
}

/// The class of `[platform]` itself.
pub(super) const ALL_COMMANDS: &str = "";

impl Draft {
    pub(super) fn new(place: Place) -> Draft {
        Draft {
            place,
            literal_dollar: None,
            keys: BTreeMap::new(),
            headers: BTreeMap::new(),
            platform: BTreeMap::new(),
            notes: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// From here on, values come from a client that puts in no variables.
    pub(super) fn takes_dollar_literally(&mut self, client: &'static str) {
        self.literal_dollar = Some(client);
    }

    /// Sets a key to a text. An empty one takes back what was set: it is what an absent key says.
    pub(super) fn text(&mut self, key: Key, raw: &str) {
        match raw.is_empty() {
            true => drop(self.keys.remove(&key)),
            false => drop(self.keys.insert(key, self.line(raw))),
        }
    }

    /// Sets a key to a number, or a word of TOML.
    #[expect(clippy::needless_pass_by_value, reason = "words and numbers alike")]
    pub(super) fn literal(&mut self, key: Key, literal: impl ToString) {
        self.keys.insert(key, Line { value: literal.to_string(), ..Line::default() });
    }

    /// Sets a key to a path: one without a directory of its own is that of the imported file.
    pub(super) fn path(&mut self, key: Key, raw: &str) {
        if raw.is_empty() {
            return self.text(key, raw);
        }
        let (path, note) = self.absolute(raw);
        // Clients that put in no variables still know the home directory by its short name.
        let literal_dollar = self.literal_dollar.take_if(|_| raw.starts_with('~'));
        self.text(key, &path);
        self.literal_dollar = self.literal_dollar.or(literal_dollar);
        let line = self.keys.entry(key).or_default();
        if key == Key::Roots {
            line.value = format!("[{}]", line.value);
        }
        line.notes.extend(note);
    }

    /// Sets a key to a program, which may stand in `PATH`.
    pub(super) fn program(&mut self, key: Key, raw: &str) {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        if raw.is_empty() || !raw.chars().all(is_plain) {
            return self.path(key, raw);
        }
        let search_path = self.place.search_path.clone().unwrap_or_default();
        let found = std::env::split_paths(&search_path).map(|directory| directory.join(raw));
        let found = found.filter(|path| path.is_absolute() && path.is_file()).find_map(|path| {
            let path = path.to_str()?;
            Some(path.to_owned())
        });
        match found {
            Some(path) => {
                self.text(key, &path);
                self.note_on(key, "found in PATH: farcc wants an absolute path");
            }
            None => {
                let line = Line {
                    value: quoted(raw),
                    notes: vec!["it is not in PATH: write its absolute path".to_owned()],
                    unusable: true,
                };
                self.keys.insert(key, line);
            }
        }
    }

    fn absolute(&self, raw: &str) -> (String, Option<String>) {
        if raw.starts_with('/') {
            return (raw.to_owned(), None);
        }
        if raw == "~" || raw.starts_with("~/") {
            return (format!("$HOME{}", &raw[1..]), Some("~ is $HOME here".to_owned()));
        }
        if raw.starts_with('$') {
            let is_home = raw.starts_with("$HOME/") || raw.starts_with("${HOME}/");
            let note = "the variable must hold an absolute path".to_owned();
            return (raw.to_owned(), (!is_home).then_some(note));
        }
        let path = self.place.directory.join(raw.trim_start_matches("./"));
        let note = "relative in the imported file: taken from that file's directory";
        (path.to_string_lossy().into_owned(), Some(note.to_owned()))
    }

    /// Whether a key has a value.
    pub(super) fn has(&self, key: Key) -> bool {
        self.keys.get(&key).is_some_and(|line| !line.unusable)
    }

    /// Takes a key back, to be only a comment, and says why.
    pub(super) fn disable(&mut self, key: Key, why: &str) {
        if let Some(line) = self.keys.get_mut(&key) {
            line.unusable = true;
            line.notes.push(why.to_owned());
        }
    }

    /// Says something above a key that is set.
    pub(super) fn note_on(&mut self, key: Key, note: &str) {
        let Some(line) = self.keys.get_mut(&key) else { return };
        if !line.notes.iter().any(|said| said == note) {
            line.notes.push(note.to_owned());
        }
    }

    /// Says something at the head of the file, once. It must hold no value of the imported file.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < MOST_NAMES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Sends a header with every call. The last of a name counts.
    pub(super) fn header(&mut self, from: &str, name: &str, value: &str, note: Option<&str>) {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_word) {
            // What stands there may be a value that lost its name, so it is not shown.
            return self.drop(from, "a header whose name is no word");
        }
        let name = name.to_ascii_lowercase();
        let mut line = self.line(value);
        let is_secret = ["key", "token", "auth", "secret", "password", "cookie", "cred"]
            .iter()
            .any(|part| name.contains(part));
        if is_secret && !value.contains('$') && !value.is_empty() {
            line.notes
                .push("a secret in plain text: \"$VARIABLE\" would keep it out of this file".to_owned());
        }
        line.notes.extend(note.map(str::to_owned));
        if self.headers.insert(name, line).is_some() {
            self.note("a header is there twice in the imported file: the last value counts here");
        }
    }

    /// Sets a property of the workers for commands of a class.
    pub(super) fn property(&mut self, class: &'static str, from: &str, name: &str, value: &str) {
        if name.is_empty() {
            return self.drop(from, "a property without a name");
        }
        let line = self.line(value);
        self.platform.entry(class).or_default().insert(name.to_owned(), line);
        // TOML has one name for a value and a table.
        for class in self.platform.keys().copied().collect::<Vec<_>>() {
            let of_all = self.platform.get_mut(ALL_COMMANDS).and_then(|of_all| of_all.get_mut(class));
            if let Some(line) = of_all.filter(|line| !line.unusable) {
                line.unusable = true;
                line.notes.push("a property with the name of a table below: it cannot stand here".to_owned());
            }
        }
    }

    /// Whether there are properties of the workers.
    pub(super) fn has_platform(&self) -> bool {
        !self.platform.is_empty()
    }

    /// Says that a key of the imported file is not taken, and why. The reason must hold no value of that file.
    pub(super) fn drop(&mut self, name: &str, reason: impl Into<String>) {
        let (name, reason) = (readable(name), reason.into());
        let names = match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names,
            None => {
                self.dropped.push((reason, Vec::new()));
                let Some((_, names)) = self.dropped.last_mut() else { return };
                names
            }
        };
        if !names.contains(&name) && names.len() <= MOST_NAMES {
            names.push(name);
        }
    }

    /// A value with its variables as farcc.toml has them.
    fn line(&self, raw: &str) -> Line {
        let mut notes = Vec::new();
        let mut variables = variables(raw);
        if variables.is_none() && self.literal_dollar.is_some() {
            // Braces and parentheses are nothing to that client, as they are nothing to farcc.
            variables = Some((raw.to_owned(), true));
        }
        let unusable = variables.is_none();
        if unusable {
            notes.push("only plain $NAME can be written here: say it in other words".to_owned());
        }
        let has_variable = variables.as_ref().is_some_and(|(_, any)| *any);
        if let Some(client) = self.literal_dollar.filter(|_| has_variable) {
            notes.push(format!("{client} takes $NAME as it stands, farcc puts in the variable"));
        }
        let text = variables.map_or_else(|| raw.to_owned(), |(text, _)| text);
        Line { value: quoted(&text), notes, unusable }
    }

    /// The file.
    pub(super) fn render(&self, origin: &str) -> String {
        let mut text = format!("# farcc.toml, by `farccd import` from {origin}.\n");
        for note in &self.notes {
            comment(&mut text, "note", note);
        }
        for section in ["remote", "exec", "workspace"] {
            let lines: Vec<_> = self.keys.iter().filter(|(key, _)| key.place().0 == section).collect();
            if !lines.is_empty() {
                text.push_str(&format!("\n[{section}]\n"));
            }
            for (key, line) in lines {
                line.render(&mut text, key.place().1);
            }
            if section == "remote" {
                render_table(&mut text, "remote.headers", &self.headers);
                for (class, properties) in &self.platform {
                    let dot = if class.is_empty() { "" } else { "." };
                    render_table(&mut text, &format!("platform{dot}{class}"), properties);
                }
            }
        }
        if !self.dropped.is_empty() {
            text.push('\n');
        }
        for (reason, names) in &self.dropped {
            let more = if names.len() > MOST_NAMES { " and more" } else { "" };
            let names = names.iter().take(MOST_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
            comment(&mut text, "dropped", &format!("{names}{more}: {reason}"));
        }
        text
    }
}

/// Notes at the head, and names that one reason lists, at most: nobody reads thousands to the end.
const MOST_NAMES: usize = 60;

/// Columns of a comment.
const WIDTH: usize = 110;

impl Line {
    fn render(&self, text: &mut String, name: &str) {
        for note in &self.notes {
            comment(text, "note", note);
        }
        let mark = if self.unusable { "# " } else { "" };
        text.push_str(&format!("{mark}{name} = {}\n", self.value));
    }
}

fn render_table(text: &mut String, name: &str, lines: &BTreeMap<String, Line>) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("\n[{name}]\n"));
    for (name, line) in lines {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match !name.is_empty() && name.chars().all(is_bare) {
            true => line.render(text, name),
            false => line.render(text, &quoted(name)),
        }
    }
}

/// Writes a comment, broken into lines that all begin with a `#`.
fn comment(text: &mut String, word: &str, said: &str) {
    let mut line = format!("# {word}:");
    for word in said.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && line != "#  " {
            text.push_str(&line);
            text.push('\n');
            line = "#  ".to_owned();
        }
        line.push(' ');
        line.extend(word.chars().flat_map(shown));
    }
    text.push_str(&line);
    text.push('\n');
}

/// A character as a comment of TOML may have it: what controls a terminal is escaped.
fn shown(character: char) -> Vec<char> {
    let turns_text = matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    match character.is_control() || turns_text {
        true => character.escape_unicode().collect(),
        false => vec![character],
    }
}

/// The name of a key, where it is one: what is none could be a secret that lost its key.
fn readable(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-[]:/%<>?@ *".contains(c);
    match name.len() <= 100 && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => "a key that is no word".to_owned(),
    }
}

/// `${NAME}` as `$NAME`, and whether there is a variable at all. None where this cannot be said so: a letter follows,
/// or the braces or parentheses hold something else than a name.
fn variables(raw: &str) -> Option<(String, bool)> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let (mut text, mut rest, mut any) = (String::new(), raw, false);
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        if rest.starts_with('(') {
            return None;
        }
        if let Some(braced) = rest.strip_prefix('{') {
            let (name, after) = braced.split_once('}')?;
            if !name.starts_with(is_first) || !name.chars().all(is_inside) || after.starts_with(is_inside) {
                return None;
            }
            text.push_str(name);
            rest = after;
            any = true;
        } else {
            any |= rest.starts_with(is_first);
        }
    }
    text.push_str(rest);
    Some((text, any))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if shown(character).len() > 1 => {
                quoted.push_str(&format!("\\U{:08X}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
