//! The values that frames are made of, and back.
//! Knows nothing of what they mean.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::Ended;
use super::HEADER_BYTES;
use super::MAX_PAYLOAD_BYTES;
use super::WireError;

pub(super) struct Encoder {
    frame: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(kind: u8) -> Encoder {
        Encoder { frame: vec![0, 0, 0, 0, kind] }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.frame.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.frame.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.frame.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.frame.extend(value.to_le_bytes());
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        let (how, number) = match ended {
            Ended::Exited(status) => (0, status),
            Ended::Signaled(signal) => (1, signal),
        };
        self.u8(how);
        self.u8(number);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// A length that does not fit makes the frame too long for `finish` as well.
    pub(super) fn length(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.frame.extend_from_slice(bytes);
    }

    pub(super) fn list(&mut self, list: &[OsString]) {
        self.length(list.len());
        list.iter().for_each(|element| self.bytes(element.as_bytes()));
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, WireError> {
        let payload_bytes = self.frame.len() - HEADER_BYTES;
        let length = u32::try_from(payload_bytes).map_err(|_| WireError::TooLong(payload_bytes))?;
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(WireError::TooLong(payload_bytes));
        }
        self.frame[..4].copy_from_slice(&length.to_le_bytes());
        Ok(self.frame)
    }
}

pub(super) struct Decoder<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        let (byte, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn ended(&mut self) -> Result<Ended, WireError> {
        match (self.u8()?, self.u8()?) {
            (0, status) => Ok(Ended::Exited(status)),
            (1, signal) => Ok(Ended::Signaled(signal)),
            _ => Err(WireError::InvalidField("ended")),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u16::from_le_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::InvalidField(field)),
        }
    }

    /// The length of a list whose elements have `strings` strings each. Every string takes four bytes or more,
    /// so a length that the payload cannot hold is refused before memory is set aside for it.
    pub(super) fn length(&mut self, strings: usize) -> Result<usize, WireError> {
        let len = usize::try_from(self.u32()?).map_err(|_| WireError::Truncated)?;
        if len > self.rest.len() / (4 * strings) {
            return Err(WireError::Truncated);
        }
        Ok(len)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.u32()?).map_err(|_| WireError::Truncated)?;
        self.take(len)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, WireError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| WireError::InvalidField(field))
    }

    /// What goes to `execve` or `open`, where a NUL would end it early.
    pub(super) fn os_string(&mut self, field: &'static str) -> Result<OsString, WireError> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) {
            return Err(WireError::InvalidField(field));
        }
        Ok(OsStr::from_bytes(bytes).to_owned())
    }

    pub(super) fn list(&mut self, field: &'static str) -> Result<Vec<OsString>, WireError> {
        let len = self.length(1)?;
        let mut list = Vec::with_capacity(len);
        for _ in 0..len {
            list.push(self.os_string(field)?);
        }
        Ok(list)
    }

    pub(super) fn finish<T>(self, message: T) -> Result<T, WireError> {
        if self.rest.is_empty() { Ok(message) } else { Err(WireError::TrailingBytes) }
    }
}
