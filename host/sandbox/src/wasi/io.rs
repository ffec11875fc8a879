//! `wasi:io`: stdin, stdout, stderr, and pollables that are ready. No function of this file waits, whatever its name.

use wasmtime::component::Resource;
use wasmtime::{Result, bail};
use wasmtime_wasi::p2::bindings::sync::io::streams::StreamError as Failure;
use wasmtime_wasi::p2::bindings::sync::io::{error, poll, streams};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, IoError, StreamError, StreamResult};

use crate::guest::Guest;
use crate::guest_log::Stream;
use crate::trap::HostTrap;

/// How many bytes a guest may write to a stream in one call.
const MAX_WRITE: u64 = 64 << 10;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

pub(super) fn stdin() -> Resource<DynInputStream> {
    Resource::new_own(0)
}

pub(super) fn stdout() -> Resource<DynOutputStream> {
    Resource::new_own(STDOUT)
}

pub(super) fn stderr() -> Resource<DynOutputStream> {
    Resource::new_own(STDERR)
}

/// Clocks that have not passed yet are the only thing to wait for, and nobody gets a pollable of these.
pub(super) fn ready() -> Resource<DynPollable> {
    Resource::new_own(0)
}

fn pay(guest: &mut Guest, bytes: usize) -> StreamResult<()> {
    guest.pay(bytes).map_err(StreamError::Trap)
}

impl error::Host for Guest {}

/// No operation fails, so nobody has an error.
impl error::HostError for Guest {
    fn to_debug_string(&mut self, _: Resource<IoError>) -> Result<String> {
        self.pay(0)?;
        Ok(String::new())
    }

    fn drop(&mut self, _: Resource<IoError>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for Guest {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        self.pay(pollables.len() * size_of::<u32>())?;
        if pollables.is_empty() {
            bail!(HostTrap::Misuse("poll of nothing"));
        }
        Ok((0..u32::try_from(pollables.len())?).collect())
    }
}

impl poll::HostPollable for Guest {
    fn ready(&mut self, _: Resource<DynPollable>) -> Result<bool> {
        self.pay(0)?;
        Ok(true)
    }

    fn block(&mut self, _: Resource<DynPollable>) -> Result<()> {
        self.pay(0)
    }

    fn drop(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Ok(())
    }
}

impl streams::Host for Guest {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<Failure> {
        match error {
            StreamError::Closed => Ok(Failure::Closed),
            StreamError::LastOperationFailed(error) | StreamError::Trap(error) => Err(error),
        }
    }
}

/// Stdin, at its end.
impl streams::HostInputStream for Guest {
    fn read(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<Vec<u8>> {
        pay(self, 0)?;
        Err(StreamError::Closed)
    }

    fn blocking_read(&mut self, stream: Resource<DynInputStream>, length: u64) -> StreamResult<Vec<u8>> {
        self.read(stream, length)
    }

    fn skip(&mut self, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        pay(self, 0)?;
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, length: u64) -> StreamResult<u64> {
        self.skip(stream, length)
    }

    fn subscribe(&mut self, _: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        self.pay(0)?;
        Ok(ready())
    }

    fn drop(&mut self, _: Resource<DynInputStream>) -> Result<()> {
        Ok(())
    }
}

/// Stdout and stderr.
impl streams::HostOutputStream for Guest {
    fn check_write(&mut self, _: Resource<DynOutputStream>) -> StreamResult<u64> {
        pay(self, 0)?;
        Ok(MAX_WRITE)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        pay(self, bytes.len())?;
        if bytes.len() as u64 > MAX_WRITE {
            return Err(StreamError::trap("a write of more than check-write allowed"));
        }
        let stream = if stream.rep() == STDERR { Stream::Stderr } else { Stream::Stdout };
        self.print(stream, &bytes);
        Ok(())
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, _: Resource<DynOutputStream>) -> StreamResult<()> {
        pay(self, 0)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.flush(stream)
    }

    fn subscribe(&mut self, _: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        self.pay(0)?;
        Ok(ready())
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, length: u64) -> StreamResult<()> {
        let length = usize::try_from(length.min(MAX_WRITE + 1)).map_err(|error| StreamError::Trap(error.into()))?;
        self.write(stream, vec![0; length])
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, length: u64) -> StreamResult<()> {
        self.write_zeroes(stream, length)
    }

    /// Stdin, the only input, is at its end.
    fn splice(&mut self, _: Resource<DynOutputStream>, _: Resource<DynInputStream>, _: u64) -> StreamResult<u64> {
        pay(self, 0)?;
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        stream: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        length: u64,
    ) -> StreamResult<u64> {
        self.splice(stream, from, length)
    }

    fn drop(&mut self, _: Resource<DynOutputStream>) -> Result<()> {
        Ok(())
    }
}
