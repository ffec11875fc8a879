//! `wasi:io`: stdin, stdout, stderr, and pollables that are always ready.
//!
//! No function waits, also not those named `block` or `blocking-...`. A handle's number says which stream it is, so there
//! is no table of resources. `Limits::handles` bounds how many handles a guest holds.

use wasmtime::component::Resource;
use wasmtime::{Result, bail};

use crate::bindings::wasi::wasi::io::error::{self, Error};
use crate::bindings::wasi::wasi::io::poll::{self, Pollable};
use crate::bindings::wasi::wasi::io::streams::{self, InputStream, OutputStream, StreamError};
use crate::guest::Guest;
use crate::guest_log::Stream;
use crate::trap::HostTrap;

/// How many bytes a guest may write to a stream in one call.
const MAX_WRITE_BYTES: u64 = 64 << 10;

/// The number of handles that need no distinction: stdin, pollables.
const ANY_HANDLE: u32 = 0;
const STDOUT_HANDLE: u32 = 1;
const STDERR_HANDLE: u32 = 2;

/// The result of a stream operation; the outer error is a trap.
type StreamResult<T> = Result<std::result::Result<T, StreamError>>;

pub(super) fn stdin() -> Resource<InputStream> {
    Resource::new_own(ANY_HANDLE)
}

pub(super) fn stdout() -> Resource<OutputStream> {
    Resource::new_own(STDOUT_HANDLE)
}

pub(super) fn stderr() -> Resource<OutputStream> {
    Resource::new_own(STDERR_HANDLE)
}

/// A pollable that is ready. There are no others: waiting for a clock traps before a guest gets a pollable.
pub(super) fn ready() -> Resource<Pollable> {
    Resource::new_own(ANY_HANDLE)
}

impl error::Host for Guest {}

/// No stream operation fails, so a guest never has such an error.
impl error::HostError for Guest {
    fn to_debug_string(&mut self, _: Resource<Error>) -> Result<String> {
        self.charge_fuel(0)?;
        Ok(String::new())
    }

    fn drop(&mut self, _: Resource<Error>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for Guest {
    fn poll(&mut self, pollables: Vec<Resource<Pollable>>) -> Result<Vec<u32>> {
        self.charge_fuel(pollables.len() * size_of::<u32>())?;
        if pollables.is_empty() {
            bail!(HostTrap::Misuse("poll of nothing"));
        }
        Ok((0..u32::try_from(pollables.len())?).collect())
    }
}

impl poll::HostPollable for Guest {
    fn ready(&mut self, _: Resource<Pollable>) -> Result<bool> {
        self.charge_fuel(0)?;
        Ok(true)
    }

    fn block(&mut self, _: Resource<Pollable>) -> Result<()> {
        self.charge_fuel(0)
    }

    fn drop(&mut self, _: Resource<Pollable>) -> Result<()> {
        Ok(())
    }
}

impl streams::Host for Guest {}

/// Stdin, which is always at its end.
impl streams::HostInputStream for Guest {
    fn read(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<Vec<u8>> {
        self.charge_fuel(0)?;
        Ok(Err(StreamError::Closed))
    }

    fn blocking_read(&mut self, stream: Resource<InputStream>, length: u64) -> StreamResult<Vec<u8>> {
        self.read(stream, length)
    }

    fn skip(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<u64> {
        self.charge_fuel(0)?;
        Ok(Err(StreamError::Closed))
    }

    fn blocking_skip(&mut self, stream: Resource<InputStream>, length: u64) -> StreamResult<u64> {
        self.skip(stream, length)
    }

    fn subscribe(&mut self, _: Resource<InputStream>) -> Result<Resource<Pollable>> {
        self.charge_fuel(0)?;
        Ok(ready())
    }

    fn drop(&mut self, _: Resource<InputStream>) -> Result<()> {
        Ok(())
    }
}

/// Stdout and stderr.
impl streams::HostOutputStream for Guest {
    fn check_write(&mut self, _: Resource<OutputStream>) -> StreamResult<u64> {
        self.charge_fuel(0)?;
        Ok(Ok(MAX_WRITE_BYTES))
    }

    fn write(&mut self, stream: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.charge_fuel(bytes.len())?;
        if bytes.len() as u64 > MAX_WRITE_BYTES {
            bail!(HostTrap::Misuse("a write of more than check-write allowed"));
        }
        let stream = if stream.rep() == STDERR_HANDLE { Stream::Stderr } else { Stream::Stdout };
        self.print(stream, &bytes);
        Ok(Ok(()))
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, _: Resource<OutputStream>) -> StreamResult<()> {
        self.charge_fuel(0)?;
        Ok(Ok(()))
    }

    fn blocking_flush(&mut self, stream: Resource<OutputStream>) -> StreamResult<()> {
        self.flush(stream)
    }

    fn subscribe(&mut self, _: Resource<OutputStream>) -> Result<Resource<Pollable>> {
        self.charge_fuel(0)?;
        Ok(ready())
    }

    fn write_zeroes(&mut self, stream: Resource<OutputStream>, length: u64) -> StreamResult<()> {
        // One byte more than allowed is enough for `write` to refuse.
        let length = usize::try_from(length.min(MAX_WRITE_BYTES + 1))?;
        self.write(stream, vec![0; length])
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<OutputStream>, length: u64) -> StreamResult<()> {
        self.write_zeroes(stream, length)
    }

    /// Stdin is the only input stream, and it is at its end.
    fn splice(&mut self, _: Resource<OutputStream>, _: Resource<InputStream>, _: u64) -> StreamResult<u64> {
        self.charge_fuel(0)?;
        Ok(Err(StreamError::Closed))
    }

    fn blocking_splice(
        &mut self,
        stream: Resource<OutputStream>,
        from: Resource<InputStream>,
        length: u64,
    ) -> StreamResult<u64> {
        self.splice(stream, from, length)
    }

    fn drop(&mut self, _: Resource<OutputStream>) -> Result<()> {
        Ok(())
    }
}
