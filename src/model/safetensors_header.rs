//! The header of a safetensors file: which tensors lie where.
//!
//! Nothing is allocated or parsed because a file says so: a header is read only if the file is as long as
//! it claims, and kept only if its tensors fill the rest of the file exactly.

use std::io;

use safetensors::tensor::Metadata;

/// The longest header that is parsed, in bytes. That of the largest dense model is 0.1 MB; the
/// format allows 100 MB, of which a parser would make several gigabytes.
const LIMIT: u64 = 16 << 20;

/// Bytes before the header, which say how long it is.
const LENGTH_BYTES: u64 = 8;

/// A header that was checked against the length of its file.
#[derive(Clone, Debug)]
pub struct Header {
    /// The tensors, each as long as its type and shape say, one after the other without a gap.
    pub metadata: Metadata,
    /// Where the first of them begins in the file.
    pub data_start: u64,
}

/// Why a file is no safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A header that is none.
    #[error("{0}")]
    Malformed(String),
    /// More or fewer bytes than the tensors take.
    #[error("it has {found} bytes where its header asks for {expected}")]
    Length {
        /// Bytes that header and tensors take.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
}

impl Header {
    /// Reads the header of a file of `len` bytes; `read` fills a buffer from an offset.
    ///
    /// # Errors
    /// If the file is too short, too long, or no safetensors file.
    pub fn read(
        len: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self, HeaderError> {
        let malformed = |reason| Err(HeaderError::Malformed(reason));
        if len < LENGTH_BYTES {
            return malformed(format!("it has only {len} bytes"));
        }
        let mut header_len = [0; LENGTH_BYTES as usize];
        read(0, &mut header_len)?;
        let header_len = u64::from_le_bytes(header_len);
        if header_len > len - LENGTH_BYTES {
            return malformed(format!("a header of {header_len} bytes in a file of {len}"));
        }
        if header_len > LIMIT {
            let reason = format!("a header of {header_len} bytes, more than {LIMIT}");
            return malformed(reason);
        }
        let mut header = vec![0; header_len as usize];
        read(LENGTH_BYTES, &mut header)?;
        // Checks that the tensors lie one after the other without a gap or an overlap, and that
        // each is as long as its shape and type say, without overflow.
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| HeaderError::Malformed(error.to_string()))?;
        let data_start = LENGTH_BYTES + header_len;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != len {
            let found = len;
            return Err(HeaderError::Length { expected, found });
        }
        Ok(Self {
            metadata,
            data_start,
        })
    }
}
