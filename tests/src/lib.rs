pub mod fake_reapi;
