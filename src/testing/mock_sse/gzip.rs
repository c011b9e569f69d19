//! The gzip format (RFC 1952) without compression: any decoder reads it, and each byte comes out when it went in.

/// Encodes one body.
#[derive(Debug)]
pub(super) struct Gzip {
    begun: bool,
    crc: u32,
    length: u32,
}

/// The most that a stored block holds.
const BLOCK_MAX: usize = u16::MAX as usize;

impl Default for Gzip {
    fn default() -> Gzip {
        Gzip { begun: false, crc: !0, length: 0 }
    }
}

impl Gzip {
    /// Bytes as stored blocks, after the header if they are the first.
    pub(super) fn encode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 16);
        if !std::mem::replace(&mut self.begun, true) {
            // Deflate, no name, no time, unknown system.
            out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        }
        for block in bytes.chunks(BLOCK_MAX) {
            stored(block, false, &mut out);
        }
        self.crc = bytes.iter().fold(self.crc, |crc, byte| crc32(crc, *byte));
        self.length = self.length.wrapping_add(bytes.len() as u32);
        out
    }

    /// The last block, which is empty, and the checks.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut out = self.encode(&[]);
        stored(&[], true, &mut out);
        out.extend_from_slice(&(!self.crc).to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out
    }
}

fn stored(block: &[u8], last: bool, out: &mut Vec<u8>) {
    let length = block.len() as u16;
    out.push(u8::from(last));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(block);
}

fn crc32(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that every catalogue of CRCs gives.
    #[test]
    fn the_check_is_that_of_gzip() {
        let mut gzip = Gzip::default();
        let head = gzip.encode(b"1234");
        assert_eq!(&head[..3], [0x1f, 0x8b, 8]);
        gzip.encode(b"56789");
        let end = gzip.finish();
        assert_eq!(end[..5], [1, 0, 0, 0xff, 0xff]);
        assert_eq!(end[5..], [&0xcbf4_3926_u32.to_le_bytes()[..], &9_u32.to_le_bytes()].concat());
    }
}
