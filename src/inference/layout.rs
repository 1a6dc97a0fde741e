//! Lays a prepared weights file out so that what runs read lies together.
//!
//! ONNX Runtime writes each weight twice, plain and packed, side by side. A load reads both (it
//! packs the plain one again, only to see that the packed one is the same), runs read the packed one
//! alone. Side by side, reading ahead brings the plain halves into memory with every page that a run
//! misses. So the plain halves are moved to the end of the file, where they can be dropped after a load.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Field numbers of `onnx.proto`.
const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;

/// Pages are mapped whole, so a piece keeps its place within its page.
const PAGE_BYTES: u64 = 4096;

/// A piece of the weights file, and where it goes.
struct Piece {
    offset: u64,
    length: u64,
    is_plain: bool,
    new_offset: u64,
}

/// Moves the plain halves of packed weights to the end of the weights file and returns where they
/// begin. Graph and weights are replaced by files written anew; on an error they stay as they were.
///
/// # Errors
/// What the file system says, or `InvalidData` when the graph is not of the form that is known.
pub fn set_plain_apart(graph: &Path, weights: &Path) -> io::Result<u64> {
    let model = fs::read(graph)?;
    let mut pieces = Vec::new();
    for_each_entry(&model, &mut |is_packed, key, value| {
        pieces.extend(spans(key, value)?.into_iter().map(|(offset, length)| Piece {
            offset,
            length,
            is_plain: is_packed && key == "length",
            new_offset: 0,
        }));
        Ok(None)
    })?;
    pieces.sort_by_key(|piece| (piece.is_plain, piece.offset));
    let mut end = 0_u64;
    let mut plain_from = None;
    let too_far = || unknown("a weight lies beyond the end of any file");
    for piece in &mut pieces {
        if piece.is_plain && plain_from.is_none() {
            end = end.checked_next_multiple_of(PAGE_BYTES).ok_or_else(too_far)?;
            plain_from = Some(end);
        }
        let gap = (piece.offset % PAGE_BYTES + PAGE_BYTES - end % PAGE_BYTES) % PAGE_BYTES;
        piece.new_offset = end.checked_add(gap).ok_or_else(too_far)?;
        end = piece.new_offset.checked_add(piece.length).ok_or_else(too_far)?;
    }
    let moved = |offset: u64| {
        pieces
            .iter()
            .find(|piece| piece.offset == offset)
            .map(|piece| piece.new_offset)
            .ok_or_else(|| unknown("a weight has no length"))
    };
    let new_model = for_each_entry(&model, &mut |_, key, value| relocated(key, value, &moved).map(Some))?;
    let (new_graph, new_weights) = (graph.with_extension("onnx.new"), weights.with_extension("bin.new"));
    let written = copy_pieces(weights, &new_weights, &pieces)
        .and_then(|()| fs::write(&new_graph, new_model))
        .and_then(|()| fs::rename(&new_weights, weights))
        .and_then(|()| fs::rename(&new_graph, graph));
    if written.is_err() {
        let _not_there = (fs::remove_file(&new_graph), fs::remove_file(&new_weights));
    }
    written.map(|()| plain_from.unwrap_or(end))
}

fn copy_pieces(from: &Path, to: &Path, pieces: &[Piece]) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    for piece in pieces {
        from.seek(SeekFrom::Start(piece.offset))?;
        to.seek(SeekFrom::Start(piece.new_offset))?;
        let copied = io::copy(&mut Read::by_ref(&mut from).take(piece.length), &mut to)?;
        if copied != piece.length {
            return Err(unknown("the weights file is shorter than its graph says"));
        }
    }
    to.flush()
}

/// The pieces that an entry names. The plain tensor's offset and length are entries of their own;
/// they come joined as `offset;length` under the key `length`.
fn spans(key: &str, value: &str) -> io::Result<Vec<(u64, u64)>> {
    let number = |text: &str| text.parse().map_err(|_| unknown("a place in the weights file is not a number"));
    let pair = |text: &str| {
        let mut fields = text.split(';');
        match (fields.next(), fields.next()) {
            (Some(offset), Some(length)) => Ok((number(offset)?, number(length)?)),
            _ => Err(unknown("a packed weight has no place in the weights file")),
        }
    };
    if key == "length" {
        Ok(vec![pair(value)?])
    } else if key.starts_with("prepacked_") {
        value.split('|').skip(1).map(pair).collect()
    } else {
        Ok(Vec::new())
    }
}

/// The entry's value with the new offsets.
fn relocated(key: &str, value: &str, moved: &impl Fn(u64) -> io::Result<u64>) -> io::Result<String> {
    let number = |text: &str| text.parse().map_err(|_| unknown("an offset is not a number"));
    if key == "offset" {
        return Ok(moved(number(value)?)?.to_string());
    }
    if !key.starts_with("prepacked_") {
        return Ok(value.to_owned());
    }
    let mut parts = value.split('|');
    let mut new = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (offset, rest) = part.split_once(';').ok_or_else(|| unknown("a packed weight has no length"))?;
        new.push_str(&format!("|{};{rest}", moved(number(offset)?)?));
    }
    Ok(new)
}

/// What is asked about an entry: whether its tensor has a packed form, the key, the value. The
/// answer is the new value.
type EntryChange<'a> = dyn FnMut(bool, &str, &str) -> io::Result<Option<String>> + 'a;

/// Walks through the external data entries of all initializers and returns the model with the
/// values that `change` gave back.
fn for_each_entry(model: &[u8], change: &mut EntryChange<'_>) -> io::Result<Vec<u8>> {
    rewritten(model, MODEL_GRAPH, &mut |graph| {
        rewritten(graph, GRAPH_INITIALIZER, &mut |tensor| {
            let entries = entries_of(tensor)?;
            let is_packed = entries.iter().any(|(key, _)| key.starts_with("prepacked_"));
            let offset = entries.iter().find(|(key, _)| key == "offset").map_or("0", |(_, value)| value.as_str());
            rewritten(tensor, TENSOR_EXTERNAL_DATA, &mut |entry| {
                let (key, value) = entry_of(entry)?;
                let shown = if key == "length" { format!("{offset};{value}") } else { value.clone() };
                let new = change(is_packed, &key, &shown)?;
                let new = if key == "length" { value } else { new.unwrap_or(value) };
                let mut bytes = Vec::new();
                put_bytes(&mut bytes, ENTRY_KEY, key.as_bytes());
                put_bytes(&mut bytes, ENTRY_VALUE, new.as_bytes());
                Ok(bytes)
            })
        })
    })
}

fn entries_of(tensor: &[u8]) -> io::Result<Vec<(String, String)>> {
    let mut entries = Vec::new();
    rewritten(tensor, TENSOR_EXTERNAL_DATA, &mut |entry| {
        entries.push(entry_of(entry)?);
        Ok(Vec::new())
    })?;
    Ok(entries)
}

fn entry_of(entry: &[u8]) -> io::Result<(String, String)> {
    let mut strings = [String::new(), String::new()];
    for (number, string) in [ENTRY_KEY, ENTRY_VALUE].into_iter().zip(&mut strings) {
        rewritten(entry, number, &mut |bytes| {
            *string = String::from_utf8(bytes.to_vec()).map_err(|_| unknown("an entry is not text"))?;
            Ok(Vec::new())
        })?;
    }
    let [key, value] = strings;
    Ok((key, value))
}

/// A protobuf message with each field of this number, which must hold bytes, put through `change`.
fn rewritten(message: &[u8], number: u64, change: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut new = Vec::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let field = rest;
        let tag = take_varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                take_varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => take_varint(&mut rest)?,
            5 => 4,
            _ => return Err(unknown("a field is of no known kind")),
        };
        let length = usize::try_from(length).map_err(|_| unknown("a field is too long"))?;
        let (content, after) = rest.split_at_checked(length).ok_or_else(|| unknown("a field is cut off"))?;
        rest = after;
        if tag >> 3 == number && tag & 7 == 2 {
            put_bytes(&mut new, number, &change(content)?);
        } else {
            new.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Ok(new)
}

fn take_varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(|| unknown("a number is cut off"))?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(unknown("a number is too long"))
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_bytes(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

fn unknown(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tensor = vec![8, 3];
        for (key, value) in entries {
            let mut entry = Vec::new();
            put_bytes(&mut entry, ENTRY_KEY, key.as_bytes());
            put_bytes(&mut entry, ENTRY_VALUE, value.as_bytes());
            put_bytes(&mut tensor, TENSOR_EXTERNAL_DATA, &entry);
        }
        tensor
    }

    #[test]
    fn plain_halves_move_to_the_end_and_every_piece_keeps_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (graph_file, weights_file) = (folder.path().join("model.onnx"), folder.path().join("model.bin"));
        let page = 4096_usize;
        // In the file: a plain weight, its packed form 64 bytes behind a page's start, another weight.
        let mut weights = vec![1; page];
        weights.extend(vec![0; 64]);
        weights.extend(vec![2; 1000]);
        weights.resize(2 * page, 0);
        weights.extend(vec![3; 500]);
        fs::write(&weights_file, &weights).unwrap();
        let mut graph = Vec::new();
        let packed = tensor(&[
            ("location", "model.bin"),
            ("offset", "0"),
            ("length", "4096"),
            ("prepacked_0", "MatMul+123|4160;1000;0"),
        ]);
        put_bytes(&mut graph, GRAPH_INITIALIZER, &packed);
        put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor(&[("offset", "8192"), ("length", "500")]));
        let mut model = vec![8, 10];
        put_bytes(&mut model, MODEL_GRAPH, &graph);
        fs::write(&graph_file, &model).unwrap();

        let plain_from = set_plain_apart(&graph_file, &weights_file).unwrap();

        let (model, weights) = (fs::read(&graph_file).unwrap(), fs::read(&weights_file).unwrap());
        let mut found = Vec::new();
        for_each_entry(&model, &mut |is_packed, key, value| {
            for (offset, length) in spans(key, value)? {
                let piece = &weights[offset as usize..(offset + length) as usize];
                assert!(piece.iter().all(|byte| *byte == piece[0]), "{key} {value}");
                found.push((is_packed && key == "length", piece[0], length, offset));
            }
            Ok(None)
        })
        .unwrap();
        assert_eq!(found, [(true, 1, 4096, plain_from), (false, 2, 1000, 64), (false, 3, 500, 4096)]);
        assert_eq!(plain_from, 8192);
    }

    #[test]
    fn what_is_not_a_graph_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (graph, weights) = (folder.path().join("model.onnx"), folder.path().join("model.bin"));
        fs::write(&graph, [58, 200]).unwrap();
        fs::write(&weights, [1, 2, 3]).unwrap();
        assert_eq!(set_plain_apart(&graph, &weights).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(fs::read(&weights).unwrap(), [1, 2, 3]);
    }
}
