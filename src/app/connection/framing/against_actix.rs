//! Finds the bounds of requests twice: as they are found here, and as actix finds them.

use actix_codec::Decoder;
use actix_http::h1::{Codec, Message, MessageType};
use actix_web::web::BytesMut;

use super::Framing;

/// Where each request ends and how many bytes its body has, of all requests that are whole.
pub(super) type Ends = Vec<(usize, usize)>;

/// The ends that are found when the bytes arrive in pieces cut at these places, and whether the rest is clear.
pub(super) fn ends_of_pieces(bytes: &[u8], cuts: &[usize]) -> (Ends, bool) {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    let (mut framing, mut ends, mut at, mut body_bytes) = (Framing::new(), Ends::new(), 0, 0);
    for cut in cuts {
        while at < cut {
            let Ok(piece) = framing.follow(&bytes[at..cut]) else { return (ends, false) };
            assert!(piece.bytes > 0, "nothing was followed at {at} of {:?}", String::from_utf8_lossy(bytes));
            at += piece.bytes;
            body_bytes += piece.body_bytes;
            if framing.at_end() {
                ends.push((at, std::mem::take(&mut body_bytes)));
                framing.begin_next();
            }
        }
    }
    (ends, true)
}

/// The ends that actix finds, up to what it refuses.
pub(super) fn ends_of_actix(bytes: &[u8]) -> Ends {
    // Its codec starts a task that keeps the date.
    actix_web::rt::System::new().block_on(async { decoded_ends(bytes) })
}

fn decoded_ends(bytes: &[u8]) -> Ends {
    let (mut codec, mut left, mut ends, mut body_bytes) = (Codec::default(), BytesMut::from(bytes), Ends::new(), 0);
    loop {
        let has_ended = match codec.decode(&mut left) {
            Ok(Some(Message::Item(_head))) => codec.message_type() == MessageType::None,
            Ok(Some(Message::Chunk(Some(data)))) => {
                body_bytes += data.len();
                false
            }
            Ok(Some(Message::Chunk(None))) => true,
            Ok(None) | Err(_) => return ends,
        };
        if has_ended {
            ends.push((bytes.len() - left.len(), std::mem::take(&mut body_bytes)));
        }
    }
}

/// For the fuzzer: where the two do not agree, a client could send what is neither counted nor timed.
pub(crate) fn check(bytes: &[u8]) {
    let (expected, whole) = (ends_of_actix(bytes), ends_of_pieces(bytes, &[]));
    let (found, is_clear) = &whole;
    let common = found.len().min(expected.len());
    assert_eq!(found[..common], expected[..common]);
    assert!(!is_clear || found.len() >= expected.len(), "actix finds more requests");
    assert_eq!(ends_of_pieces(bytes, &(0..bytes.len()).collect::<Vec<_>>()), whole, "cut at every byte");
}
