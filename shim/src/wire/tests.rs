//! Frames: what is written is read, and nothing else is.

use std::os::unix::ffi::OsStringExt;

use super::*;

fn samples() -> Vec<Frame> {
    let run = RunRequest {
        version: VERSION.into(),
        program: "/usr/bin/gcc".into(),
        argv: vec!["gcc".into(), "-c".into(), OsString::from_vec(vec![0xff, b'\n', 0x80]), "".into()],
        cwd: "/tmp/a b".into(),
        env: vec![("A".into(), "".into()), ("A".into(), "=x=".into())],
        umask: 0o077,
        stdin_is_terminal: true,
        stdin_is_fed: false,
        stdout_is_terminal: false,
        stderr_is_terminal: true,
    };
    let empty = RunRequest { argv: vec![], env: vec![], cwd: "".into(), program: "".into(), ..run.clone() };
    let done = |ended| {
        let (stdout, stderr) = (vec![0, 1], b"warning".into());
        DoneReport { ended, stdout, stderr, captured: true, micros: 1 << 40 }
    };
    let window = Window { rows: 50, columns: 0x1234 };
    let build = BuildRequest {
        run: run.clone(),
        fetch: vec!["*.o".into()],
        launchers: vec!["/l/farcc".into(), "/l/gcc".into()],
        modules: vec!["/l/Farcc.cmake".into()],
        window: Some(window),
        is_quiet: true,
    };
    let plain = BuildRequest { fetch: vec![], launchers: vec![], window: None, ..build.clone() };
    let mut frames: Vec<Frame> = [
        Request::Run(run),
        Request::Run(empty),
        Request::Build(build),
        Request::Build(plain),
        Request::Resized(window),
        Request::Done(done(Ended::Exited(3))),
        Request::Done(DoneReport { captured: false, ..done(Ended::Signaled(15)) }),
        Request::Stopped,
        Request::Input { bytes: vec![0, 0xff], is_last: true },
        Request::Input { bytes: vec![], is_last: false },
        Request::Signal(2),
        Request::Cancel,
        Request::Control { words: vec!["stop".into(), "--drain".into()] },
    ]
    .map(Frame::Request)
    .into();
    frames.extend(
        [
            Reply::Completed { exit_code: 255, stdout: vec![0; 300], stderr: vec![] },
            Reply::PassThrough { reason: "unsupported_flag: -fplugin".into(), slot: true },
            Reply::RunAndStore { argv: vec!["cc".into(), "-fdiagnostics-color".into()], reason: "é".into() },
            Reply::Race { argv: vec!["cc".into(), OsString::from_vec(vec![0xff, b' '])] },
            Reply::Race { argv: vec![] },
            Reply::Stop,
            Reply::Stream { has_input: true, may_run_again: false },
            Reply::Output { descriptor: 2, bytes: b"\xff".into() },
            Reply::Taken(1 << 33),
            Reply::Ended(Ended::Signaled(9)),
            Reply::Text(b"{}".into()),
            Reply::Refused { message: "draining".into() },
            Reply::Working,
        ]
        .map(Frame::Reply),
    );
    frames
}

#[test]
fn decode_is_the_inverse_of_encode() {
    for frame in samples() {
        assert_eq!(Frame::decode(&frame.encode().unwrap()), Ok(frame));
    }
}

#[test]
fn every_truncation_is_an_error() {
    for frame in samples() {
        let bytes = frame.encode().unwrap();
        for len in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..len]), Err(WireError::Truncated), "{frame:?} cut at {len}");
            // The same with a header that agrees, so that the payload's own bounds are what refuses.
            if len >= HEADER_BYTES {
                assert!(Frame::from_parts(bytes[4], &bytes[HEADER_BYTES..len]).is_err(), "{frame:?} {len}");
            }
        }
        assert_eq!(Frame::decode(&[&bytes[..], b"x"].concat()), Err(WireError::TrailingBytes));
        assert!(Frame::from_parts(bytes[4], &[&bytes[HEADER_BYTES..], b"x"].concat()).is_err());
    }
}

/// Numbers that look random and are the same in each run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

/// Whatever is accepted must be the one encoding of what it was read as.
fn check_canonical(bytes: &[u8]) -> bool {
    match Frame::decode(bytes) {
        Ok(frame) => {
            assert_eq!(frame.encode().as_deref(), Ok(bytes));
            true
        }
        Err(_) => false,
    }
}

#[test]
fn garbage_is_refused_or_canonical() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let samples: Vec<Vec<u8>> = samples().iter().map(|frame| frame.encode().unwrap()).collect();
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut bytes = samples[random.below(samples.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.byte(),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.insert(at, random.byte()),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        accepted += usize::from(check_canonical(&bytes));
    }
    // The mutations are mild enough that some still are frames: the property above is not vacuous.
    assert!(accepted > 1000, "{accepted}");
    for _ in 0..50_000 {
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.byte()).collect();
        check_canonical(&bytes);
        for kind in 0..=255 {
            let _ = Frame::from_parts(kind, &bytes);
        }
    }
}

#[test]
fn lengths_are_checked_before_memory_is_reserved() {
    let huge = [0xff, 0xff, 0xff, 0xff];
    assert_eq!(Request::decode(CONTROL, &huge), Err(WireError::Truncated));
    assert_eq!(Reply::decode(TEXT, &huge), Err(WireError::Truncated));
    assert_eq!(Header::decode([0xff, 0xff, 0xff, 0xff, TEXT]), Err(WireError::TooLong(0xffff_ffff)));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let reply = Reply::Text(vec![0; MAX_PAYLOAD_BYTES]);
    assert_eq!(reply.encode(), Err(WireError::TooLong(MAX_PAYLOAD_BYTES + 4)));
    let reply = Reply::Text(vec![7; MAX_PAYLOAD_BYTES - 4]);
    assert_eq!(Frame::decode(&reply.encode().unwrap()), Ok(Frame::Reply(reply)));
}

#[test]
fn another_protocol_is_told_apart_from_garbage() {
    let mut payload = (PROTOCOL + 1).to_le_bytes().to_vec();
    payload.extend(b"whatever a later version sends");
    assert_eq!(Request::decode(RUN, &payload), Err(WireError::OtherProtocol(PROTOCOL + 1)));
}

#[test]
fn no_nul_reaches_execve() {
    let control = Request::Control { words: vec!["a\0b".into()] };
    let bytes = control.encode().unwrap();
    assert_eq!(Frame::decode(&bytes), Err(WireError::InvalidField("words")));
    let race = Reply::Race { argv: vec!["a\0b".into()] };
    assert_eq!(Frame::decode(&race.encode().unwrap()), Err(WireError::InvalidField("argv")));
}

#[test]
fn each_side_has_its_own_kinds() {
    for frame in samples() {
        let bytes = frame.encode().unwrap();
        let (kind, payload) = (bytes[4], &bytes[HEADER_BYTES..]);
        let as_request = Request::decode(kind, payload);
        let as_reply = Reply::decode(kind, payload);
        match frame {
            Frame::Request(request) => {
                assert_eq!((as_request, as_reply), (Ok(request), Err(WireError::UnknownKind(kind))));
            }
            Frame::Reply(reply) => {
                assert_eq!((as_request, as_reply), (Err(WireError::UnknownKind(kind)), Ok(reply)));
            }
        }
    }
}
