//! Where each request of a connection begins and ends, told from its bytes as they arrive.
//!
//! actix reads the requests; this only finds their bounds, by the same rules. A head that actix
//! refuses need not be understood here, because actix closes its connection. A head that it takes
//! must be bounded exactly: what is not plain is therefore refused.

use memchr::memchr;

/// Bytes of a head's line that are looked at: enough for the headers that bound a body.
const LOOKED_AT_BYTES: usize = 64;

/// What cannot be followed; the connection must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclear;

/// What a piece of a connection's bytes held, up to the end of its request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Bytes of this request; what follows belongs to the next one.
    pub(super) bytes: usize,
    /// Bytes among them that a reader of the body gets to see.
    pub(super) body_bytes: usize,
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// There is no body.
    None,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// With the connection, as for a request to switch to another protocol.
    Close,
}

/// Follows one request after the other.
#[derive(Debug)]
pub(super) struct Framing {
    stage: Stage,
    head_bytes: usize,
    line: Line,
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Body { left: u64 },
    Chunks(ChunkStage),
    End,
}

/// Within a chunked body, between two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkStage {
    /// Before a chunk's size.
    SizeFirst,
    Size(u64),
    /// Behind the size: blanks or an extension.
    SizeLine(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the line that ends the body.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// The start of the line that is being read.
#[derive(Debug)]
struct Line {
    start: [u8; LOOKED_AT_BYTES],
    bytes: usize,
    ends_in_cr: bool,
}

/// What the head's lines have told so far.
#[derive(Debug, Default)]
struct Found {
    request_line: bool,
    connect: bool,
    chunked: bool,
    websocket: bool,
    length: Option<u64>,
}

impl Framing {
    pub(super) fn new() -> Self {
        let line = Line { start: [0; LOOKED_AT_BYTES], bytes: 0, ends_in_cr: false };
        Self { stage: Stage::Head, head_bytes: 0, line, found: Found::default() }
    }

    /// Goes on with the next request, after the end of one.
    pub(super) fn begin_next(&mut self) {
        (self.stage, self.head_bytes, self.found) = (Stage::Head, 0, Found::default());
        self.line.begin();
    }

    /// Bytes of the head so far.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Whether the head's end has not been seen.
    pub(super) fn in_head(&self) -> bool {
        self.stage == Stage::Head
    }

    /// Whether something else than blank lines has been seen of the request.
    pub(super) fn has_begun(&self) -> bool {
        !self.in_head() || self.found.request_line || self.line.bytes > 1
    }

    /// Whether the whole request has been seen.
    pub(super) fn at_end(&self) -> bool {
        self.stage == Stage::End
    }

    /// How the end of this request's body is told, by what its head has said.
    pub(super) fn body_end(&self) -> BodyEnd {
        match self.found {
            Found { chunked: true, .. } => BodyEnd::Chunked,
            Found { websocket: true, .. } => BodyEnd::Close,
            Found { length: None, connect: true, .. } => BodyEnd::Close,
            // actix takes a length of 0 as none.
            Found { length: Some(0), connect: true, .. } => BodyEnd::Close,
            Found { length: None | Some(0), .. } => BodyEnd::None,
            Found { length: Some(bytes), .. } => BodyEnd::Length(bytes),
        }
    }

    /// Follows `bytes`, the next ones of the connection, to their end or to the end of the request.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<Piece, Unclear> {
        let mut piece = Piece::default();
        while piece.bytes < bytes.len() && self.stage != Stage::End {
            let rest = &bytes[piece.bytes..];
            match self.stage {
                Stage::Head => {
                    let used = self.follow_line(rest)?;
                    piece.bytes += used;
                    self.head_bytes += used;
                }
                Stage::Body { left } => {
                    let used = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    piece.bytes += used;
                    piece.body_bytes += used;
                    // The body that ends with the connection is never at its end.
                    let left = if left == u64::MAX { left } else { left - used as u64 };
                    self.stage = if left == 0 { Stage::End } else { Stage::Body { left } };
                }
                Stage::Chunks(ChunkStage::Data(left)) => {
                    let used = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    piece.bytes += used;
                    piece.body_bytes += used;
                    let left = left - used as u64;
                    self.stage = Stage::Chunks(if left == 0 { ChunkStage::DataCr } else { ChunkStage::Data(left) });
                }
                Stage::Chunks(stage) => {
                    piece.bytes += 1;
                    self.stage = stage.after(rest[0])?.map_or(Stage::End, Stage::Chunks);
                }
                Stage::End => break,
            }
        }
        Ok(piece)
    }

    /// Follows a line of the head to its end, or as far as it is there.
    fn follow_line(&mut self, bytes: &[u8]) -> Result<usize, Unclear> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.line.add(bytes);
            return Ok(bytes.len());
        };
        self.line.add(&bytes[..end]);
        if self.line.is_blank() {
            // Blank lines before the request line are skipped.
            if self.found.request_line {
                self.stage = match self.body_end() {
                    BodyEnd::None => Stage::End,
                    BodyEnd::Length(left) => Stage::Body { left },
                    BodyEnd::Chunked => Stage::Chunks(ChunkStage::SizeFirst),
                    BodyEnd::Close => Stage::Body { left: u64::MAX },
                };
            }
        } else if self.found.request_line {
            self.found.read_header(&self.line)?;
        } else {
            self.found.request_line = true;
            self.found.connect = self.line.looked_at().starts_with(b"CONNECT ");
        }
        self.line.begin();
        Ok(end + 1)
    }
}

impl Line {
    fn begin(&mut self) {
        (self.bytes, self.ends_in_cr) = (0, false);
    }

    fn add(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            let kept = self.bytes.min(LOOKED_AT_BYTES);
            let more = bytes.len().min(LOOKED_AT_BYTES - kept);
            self.start[kept..kept + more].copy_from_slice(&bytes[..more]);
            self.bytes += bytes.len();
            self.ends_in_cr = *last == b'\r';
        }
    }

    fn is_blank(&self) -> bool {
        self.bytes == usize::from(self.ends_in_cr)
    }

    fn looked_at(&self) -> &[u8] {
        &self.start[..self.bytes.min(LOOKED_AT_BYTES)]
    }
}

impl Found {
    /// Takes from a header what bounds the body.
    fn read_header(&mut self, line: &Line) -> Result<(), Unclear> {
        let start = line.looked_at();
        // Most headers are none of the three, which their first letter tells.
        if !matches!(start.first(), Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U')) {
            return Ok(());
        }
        let Some(colon) = memchr(b':', start) else { return Ok(()) };
        let name = &start[..colon];
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let (is_length, is_coding, is_upgrade) = (is("content-length"), is("transfer-encoding"), is("upgrade"));
        if !(is_length || is_coding || is_upgrade) {
            return Ok(());
        }
        if line.bytes > LOOKED_AT_BYTES {
            return Err(Unclear);
        }
        let value = start[colon + 1..].trim_ascii();
        if is_length {
            let digits = value.iter().all(u8::is_ascii_digit).then_some(value);
            let length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).ok_or(Unclear)?;
            // The largest number stands for no end.
            if length == u64::MAX || self.length.replace(length).is_some() {
                return Err(Unclear);
            }
        } else if is_coding {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Unclear);
            }
            self.chunked = true;
        } else {
            self.websocket |= value.eq_ignore_ascii_case(b"websocket");
        }
        Ok(())
    }
}

impl ChunkStage {
    /// The stage behind `byte`; `None` behind the body's last one.
    fn after(self, byte: u8) -> Result<Option<Self>, Unclear> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        let next = match (self, byte) {
            (Self::SizeFirst, _) => Self::Size(digit.ok_or(Unclear)?),
            (Self::Size(size) | Self::SizeLine(size), b'\r') => Self::SizeLf(size),
            (Self::Size(size), b' ' | b'\t' | b';') => Self::SizeLine(size),
            (Self::Size(size), _) => Self::Size(size.checked_mul(16).ok_or(Unclear)? + digit.ok_or(Unclear)?),
            (Self::SizeLine(_), b'\n') => return Err(Unclear),
            (Self::SizeLine(size), _) => Self::SizeLine(size),
            (Self::SizeLf(0), b'\n') | (Self::TrailerLf, b'\n') => Self::LineStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::SizeFirst,
            (Self::LineStart, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::LineStart | Self::Trailer, _) => Self::Trailer,
            (Self::EndLf, b'\n') => return Ok(None),
            // Bytes of data are followed many at once.
            (Self::Data(_) | Self::SizeLf(_) | Self::TrailerLf | Self::DataCr | Self::DataLf | Self::EndLf, _) => {
                return Err(Unclear);
            }
        };
        Ok(Some(next))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod against_actix;
#[cfg(test)]
mod tests;
