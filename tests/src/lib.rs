pub mod fake_reapi;
pub mod oracle;
