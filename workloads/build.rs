//! Puts the page's files into `stock-liveview`, each plain and compressed as well as it can be.
//! Rule: every file below `src/liveview/page/` is one of the page's; its kind is told by its name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a build that fails says why in its own way")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

const FOLDER: &str = "src/liveview/page";

fn main() {
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-changed=build.rs");
    let (folder, out) = (Path::new(FOLDER), PathBuf::from(env::var_os("OUT_DIR").unwrap()));
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.sort();
    let mut table = String::from("static FILES: &[File] = &[\n");
    for (number, path) in files.iter().enumerate() {
        let plain = fs::read(path).unwrap();
        let (gzip, brotli) = (out.join(format!("{number}.gz")), out.join(format!("{number}.br")));
        fs::write(&gzip, gzipped(&plain)).unwrap();
        fs::write(&brotli, brotlied(&plain)).unwrap();
        let digest = Sha256::digest(&plain);
        let tag: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        writeln!(
            table,
            "    File {{ name: {:?}, kind: {:?}, tag: {tag:?}, plain: include_bytes!({:?}), gzip: include_bytes!({gzip:?}), brotli: include_bytes!({brotli:?}) }},",
            path.strip_prefix(folder).unwrap().to_str().unwrap(),
            kind(path),
            fs::canonicalize(path).unwrap(),
        )
        .unwrap();
    }
    table.push_str("];\n");
    fs::write(out.join("page.rs"), table).unwrap();
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        _ => panic!("{}: say in build.rs what kind of file this is", path.display()),
    }
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn brotlied(plain: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 64 * 1024, 11, 22);
    encoder.write_all(plain).unwrap();
    encoder.into_inner()
}
