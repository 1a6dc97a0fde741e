//! The page of security names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions in files of Rust and Python below this folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            let text = fs::read_to_string(&path).unwrap();
            let starts = text.lines().filter_map(|line| {
                let line = line.trim_start();
                line.strip_prefix("fn ").or_else(|| line.strip_prefix("def "))?.split('(').next()
            });
            names.extend(starts.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_page_of_security_names_is_there() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    functions(&project.join("tests"), &mut there);
    functions(&project.join("src"), &mut there);
    let page = include_str!("../../docs/security.md");
    let table = page.split_once("| an attacker may |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows.filter(|row| !row.starts_with("| **")) {
        let named: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test is named: {row}");
        for name in named {
            assert!(there.contains(name), "there is no test {name}: {row}");
            count += 1;
        }
    }
    assert!(count >= 40, "{count}");
}
