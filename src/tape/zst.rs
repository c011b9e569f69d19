//! Data compressed with zstd, read as far as it is there: more of it may come later.

use std::io::{self, BufRead, Read};

use zstd::stream::raw::{Decoder, Operation as _};

/// See the module. Where the data stops in the middle, that is an error of the kind `UnexpectedEof`; when there is more, it goes on.
pub(super) struct Decompressor<R> {
    source: R,
    decoder: Decoder<'static>,
    /// A piece (a frame of RFC 8878) has begun and not ended.
    inside: bool,
}

impl<R: BufRead> Decompressor<R> {
    pub(super) fn new(source: R) -> io::Result<Self> {
        Ok(Decompressor { source, decoder: Decoder::new()?, inside: false })
    }
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.source.fill_buf()?;
            let at_end = input.is_empty();
            if at_end && !self.inside {
                return Ok(0);
            }
            let status = self.decoder.run_on_buffers(input, buffer)?;
            self.source.consume(status.bytes_read);
            self.inside = status.remaining > 0;
            match status.bytes_written {
                0 if at_end => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => {}
                written => return Ok(written),
            }
        }
    }
}
