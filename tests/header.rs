//! `include/u2pl_engine.h` is what cbindgen makes of `src/ffi/capi`. `U2PL_BLESS=1` writes it anew.

use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};

const HEADER: &str = "include/u2pl_engine.h";

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        include_guard: Some("U2PL_ENGINE_H".into()),
        header: Some(
            "/* u2pl-engine: semantic segmentation in someone else's program.\n\
             \x20*\n\
             \x20* Made by cbindgen from src/ffi/capi; do not edit.\n\
             \x20*\n\
             \x20* Every function that returns a u2pl_status may be called from any thread at any time,\n\
             \x20* returns U2PL_OK or says with u2pl_last_error() in one line what was wrong, and leaves\n\
             \x20* every handle usable. Memory that is passed stays the caller's and is not touched\n\
             \x20* after the call, except on a GPU as u2pl_segment_device says. Link with libu2pl_engine (pkg-config --libs u2pl-engine). */"
                .into(),
        ),
        documentation_style: DocumentationStyle::C99,
        style: Style::Both,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        usize_is_size_t: true,
        line_length: 100,
        ..Config::default()
    };
    let mut builder = Builder::new().with_config(config);
    for file in [
        "error",
        "handle",
        "options",
        "image",
        "segment",
        "on_device",
        "tensor",
    ] {
        builder = builder.with_src(root.join(format!("src/ffi/capi/{file}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("bindings").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    // What Rust callers must uphold is said of each argument already.
    let mut kept: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        skipping = match line.trim() {
            "// # Safety" => true,
            line => skipping && line.starts_with("//"),
        };
        if skipping {
            if line.trim() == "// # Safety" && kept.last().is_some_and(|l| l.trim() == "//") {
                kept.pop();
            }
            continue;
        }
        kept.push(line);
    }
    kept.join("\n") + "\n"
}

#[test]
fn the_header_is_that_of_the_source() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(HEADER);
    let generated = generated();
    if std::env::var_os("U2PL_BLESS").is_some() {
        std::fs::write(&path, &generated).expect("header");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == generated,
        "{HEADER} is not what src/ffi/capi says: U2PL_BLESS=1 cargo test --test header"
    );
}
