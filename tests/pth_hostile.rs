//! Files of PyTorch's that are damaged or mean harm: an error of one line that names the place,
//! never a panic, never a byte of memory for what the file only claims to hold.
//!
//! `U2PL_PTH_FUZZ_RUNS=1000000 cargo test --release --test pth_hostile mutated` runs the mutator
//! that often; `U2PL_PTH_FUZZ_SEED` changes what it does. A failure leaves its file behind.

#[path = "support/archive.rs"]
mod archive;

use std::fs;
use std::path::{Path, PathBuf};

use archive::{Entry, entry, int, pickle, pth, sizes, tensor, text, zip};
use tempfile::TempDir;
use u2pl_engine::weights::{Reader, convert};

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pth");
    fs::read(folder.join(format!("{name}.pth"))).unwrap()
}

/// A file that is written over and over.
struct Scratch {
    folder: TempDir,
}

/// Names and values of all tensors.
type Contents = Vec<(String, Vec<usize>, Result<Vec<f32>, String>)>;

impl Scratch {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("w.pth")
    }

    /// Everything in a file of these bytes, or the error, which is one line about the file.
    fn read(&self, bytes: &[u8]) -> Result<Contents, String> {
        // A new file each time: some file systems flush one that is written over.
        let _ = fs::remove_file(self.path());
        fs::write(self.path(), bytes).unwrap();
        let told = |e: u2pl_engine::Error| {
            let line = e.to_string();
            assert_eq!(e.exit_code(), 2, "{line}");
            assert!(line.contains("w.pth") && !line.contains('\n'), "{line:?}");
            assert!(line.len() < 1500, "{line}");
            line
        };
        let file = Reader::open(&self.path()).map_err(told)?;
        let mut contents = Contents::new();
        for name in file.names() {
            let shape = file.shape(&name).unwrap().to_vec();
            let values = match file.floats(&name) {
                Ok(values) => Ok(values),
                // Integers are not floats; that is no damage.
                Err(e) if e.to_string().contains("is stored as") => Err(told(e)),
                Err(e) => return Err(told(e)),
            };
            contents.push((name, shape, values));
        }
        Ok(contents)
    }

    fn refused(&self, bytes: &[u8], why: &str) -> String {
        let line = self.read(bytes).expect_err(why);
        assert!(line.contains(why), "{why:?} in {line}");
        line
    }

    /// The refusal of a pickle in an archive.
    fn pickle(&self, value: &[u8], why: &str) -> String {
        self.refused(&pth(&pickle(value), &[&[0; 16]]), why)
    }
}

#[test]
fn the_archives_of_these_tests_are_sound() {
    let scratch = Scratch::new();
    let bytes = pth(&pickle(&tensor("0", 4, 1, &[3], &[1])), &[&[0; 16]]);
    let contents = scratch.read(&bytes).unwrap();
    assert_eq!(contents, [("tensor".into(), vec![3], Ok(vec![0.0; 3]))]);
}

#[test]
fn nothing_is_run() {
    let scratch = Scratch::new();
    let marker = scratch.folder.path().join("ran");
    let command = text(&format!("touch {}", marker.display()));
    let call = |function: &[u8]| [function, &command, b"\x85R"].concat();
    let line = scratch.pickle(&call(b"cos\nsystem\n"), "asks for os.system");
    assert!(line.contains("w/data.pkl, byte 2:"), "{line}");
    assert!(
        line.contains("torch.save(model.state_dict(), FILE)"),
        "{line}"
    );
    scratch.pickle(&call(b"cposix\nsystem\n"), "asks for posix.system");
    scratch.pickle(&call(b"cbuiltins\neval\n"), "asks for builtins.eval");
    scratch.pickle(&call(b"csubprocess\nPopen\n"), "asks for subprocess.Popen");
    scratch.pickle(&call(b"ctorch\nload\n"), "asks for torch.load");
    scratch.pickle(
        &call(b"ctorch.storage\n_load_from_bytes\n"),
        "asks for torch.storage._load",
    );
    let stacked = [&text("os")[..], &text("system"), b"\x93"].concat();
    scratch.pickle(&call(&stacked), "asks for os.system");
    // Behind a good tensor, and in the other formats' pickles.
    let behind = [
        b"(",
        &tensor("0", 4, 0, &[4], &[1])[..],
        &call(b"cos\nsystem\n"),
        b"t",
    ]
    .concat();
    scratch.pickle(&behind, "asks for os.system");
    let stream = [
        &golden("checkpoint_stream")[..0x87],
        &pickle(&call(b"cos\nsystem\n")),
    ]
    .concat();
    let line = scratch.refused(&stream, "asks for os.system");
    assert!(line.contains("the pickle stream, byte 137:"), "{line}");
    scratch.pickle(b"(ios\nsystem\n", "opcode 0x69 (INST)");
    scratch.pickle(b"cos\nsystem\n)}\x92", "asks for os.system");
    scratch.pickle(b"(cos\nsystem\no", "asks for os.system");
    scratch.pickle(b"\x82\x01", "opcode 0x82 (EXT)");
    scratch.pickle(b"P1\n", "opcode 0x50 (PERSID)");
    scratch.pickle(b")\x92", "takes a value where there is none");
    assert!(!marker.exists());
    // A name with line ends and escapes stays on the line.
    scratch.pickle(b"cos\r\x1b[2J\nsystem\n", "but os\\r\\u{1b}[2J.system");
    let long = [b"c", &[b'a'; 5000][..], b"\nb\n"].concat();
    assert!(scratch.pickle(&long, "no tensor, but aaaa").len() < 400);
    let long = [b"cos.", &[b'a'; 5000][..], b"\nb\n"].concat();
    assert!(scratch.pickle(&long, "asks for os.aaaa").len() < 400);
}

#[test]
fn pickles_that_are_none() {
    let scratch = Scratch::new();
    for (value, why) in [
        (
            &b""[..],
            "byte 2: the pickle takes a value where there is none",
        ),
        (b"t", "collects values without a mark"),
        (b"(\x85", "takes a value where there is none"),
        (b"h\x05", "recalls value 5, never kept"),
        (b"N(Nu", "fills what is no container"),
        (b"}(Nu", "fills what is no container"),
        (b"]NNs", "fills what is no container"),
        (b"NN\x85R", "a call of what is no function"),
        (
            b"ccollections\nOrderedDict\nN\x85R",
            "an OrderedDict of what is no list",
        ),
        (
            b"ctorch\nFloatStorage\n)R",
            "of other arguments than its own",
        ),
        (
            b"ctorch._utils\n_rebuild_tensor_v2\n)R",
            "of other arguments than its own",
        ),
        (
            b"ctorch._utils\n_rebuild_parameter\nN\x85R",
            "of other arguments than its own",
        ),
        (b"NQ", "a reference that is no storage"),
        (b"X\x02\0\0\0\xff\xfe", "text that is not UTF-8"),
        (b"X\xff\xff\xff\xff", "the pickle ends in the middle"),
        (
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
            "the pickle ends in the middle",
        ),
        (b"c", "the pickle ends in the middle"),
        (b"\xff", "opcode 0xff (unknown)"),
        (b"\x8a\xff", "the pickle ends in the middle"),
        (b"\x8b\xff\xff\xff\xff", "the pickle ends in the middle"),
        (
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
            "the pickle ends in the middle",
        ),
        (b"(o", "an object without a class"),
        (b"(No", "a call of what is no function"),
        (b"0", "takes a value where there is none"),
        (b"1", "collects values without a mark"),
        (b"}}b", "an object with a state of its own"),
        (
            b"ctorch\nfloat32\n",
            "a function or type instead of a value",
        ),
        (b"C\x01a", "bytes that are no tensor"),
        (
            b"\x8a\x09\0\0\0\0\0\0\0\0\x01",
            "the integer 18446744073709551616",
        ),
        (b"}N}s", "under a key that is neither text nor an integer"),
        (b"\x8f(NN\x90", "no tensor, but set"),
        (
            b"cargparse\nNamespace\n)\x81}b",
            "no tensor, but argparse.Namespace",
        ),
        (
            b"cnumpy\ndtype\nX\x02\0\0\0O8\x85R",
            "a NumPy value of type O8",
        ),
        (
            b"ctorch\nComplexFloatStorage\n",
            "no tensor, but torch.ComplexFloatStorage",
        ),
    ] {
        scratch.pickle(value, why);
    }
    let scratch = Scratch::new();
    scratch.refused(
        &pth(b"\x80\x02N", &[]),
        "byte 3: the pickle ends in the middle",
    );
    scratch.refused(&pth(b"\x80\x02N.N", &[]), "1 bytes after its end");
    scratch.refused(&pth(b"", &[]), "byte 0: the pickle ends in the middle");
}

#[test]
fn numbers_of_numpy_need_their_order_and_size() {
    let scratch = Scratch::new();
    let number = |order: &str, raw: &[u8]| {
        [
            &b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"[..],
            &text("f8"),
            b"\x89\x88\x87R(K\x03",
            &text(order),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbC",
            &[raw.len() as u8],
            raw,
            b"\x86R",
        ]
        .concat()
    };
    scratch
        .read(&pth(&pickle(&number("<", &[0; 8])), &[]))
        .unwrap();
    scratch.pickle(&number(">", &[0; 8]), "not little-endian");
    scratch.pickle(&number("<", &[0; 7]), "of the wrong size");
}

#[test]
fn bombs() {
    let scratch = Scratch::new();
    // A list within itself.
    scratch.pickle(b"]q\x00h\x00a", "more than 32 containers in one another");
    // Lists of two lists of two lists …
    let mut laughs = b"]q\x00".to_vec();
    for i in 1..30u8 {
        laughs.extend([b']', b'(', b'h', i - 1, b'h', i - 1, b'e', b'q', i]);
    }
    scratch.pickle(&laughs, "values");
    // The same text in a thousand places.
    let long = "x".repeat(1 << 17);
    let mut copies = [
        &b"("[..],
        b"X",
        &(long.len() as u32).to_le_bytes(),
        long.as_bytes(),
        b"q\x00",
    ]
    .concat();
    copies.extend(b"h\x00".repeat(1000));
    copies.push(b't');
    scratch.pickle(&copies, "bytes of text");
    // A long list turned into dictionaries again and again.
    let mut pairs = b"ccollections\nOrderedDict\nq\x01(]q\x00(".to_vec();
    pairs.extend(b"NN\x86".repeat(10_000));
    pairs.extend(b"e\x85q\x02");
    pairs.extend(b"h\x01h\x02R".repeat(1000));
    pairs.push(b't');
    scratch.pickle(&pairs, "more than 4194304 values");
    // Marks and references without end.
    scratch.pickle(&vec![b'('; 5 << 20], "more than 4194304 values");
    scratch.pickle(
        &[b"Nq\x00", &b"h\x00".repeat(5 << 20)[..]].concat(),
        "more than 4194304 values",
    );
    scratch.pickle(&vec![b'N'; 17 << 20], "a pickle of more than 16 MiB");
    // One element stretched over more memory than there is, and over more than the file is worth.
    scratch.pickle(
        &tensor("0", 4, 0, &[1 << 40], &[0]),
        "unfold to 4398046511104 bytes",
    );
    scratch.pickle(
        &tensor("0", 4, 0, &[1 << 30, 1 << 30], &[0, 0]),
        "unfold to",
    );
    scratch.pickle(
        &tensor("0", 4, 0, &[i64::MAX, i64::MAX], &[0, 0]),
        "impossible size",
    );
    let many = [
        b"(",
        &tensor("0", 4, 0, &[1 << 22], &[0])[..],
        b"q\x00",
        &b"h\x00".repeat(100),
        b"t",
    ];
    scratch.pickle(&many.concat(), "unfold to");
    scratch
        .read(&pth(
            &pickle(&tensor("0", 4, 0, &[1 << 20], &[0])),
            &[&[0; 16]],
        ))
        .unwrap();
    // Sizes that only the file's words claim.
    scratch.pickle(
        &tensor("0", 1 << 60, 0, &[1 << 60], &[1]),
        "has 16 bytes where its tensors want",
    );
    scratch.pickle(
        &tensor("0", i64::MAX, 0, &[4], &[1]),
        "a storage of 9223372036854775807 elements",
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let scratch = Scratch::new();
    for (value, why) in [
        (
            tensor("0", 4, 1, &[4], &[1]),
            "reaches beyond its storage of 16 bytes",
        ),
        (
            tensor("0", 4, 0, &[2, 2], &[3, 1]),
            "reaches beyond its storage",
        ),
        (tensor("0", 4, -1, &[4], &[1]), "a size of -1"),
        (tensor("0", 4, 0, &[4], &[-1]), "a size of -1"),
        (tensor("0", 4, 0, &[2, 2], &[1]), "2 sizes and 1 strides"),
        (tensor("0", 4, i64::MAX, &[1], &[1]), "reaches beyond"),
        (
            tensor("0", 4, 0, &[1; 40], &[1; 40]),
            "a tensor of 40 dimensions",
        ),
        (
            tensor("0", 3, 0, &[3], &[1]),
            "w/data/0: has 16 bytes where its tensors want 12",
        ),
        (tensor("1", 4, 0, &[4], &[1]), "w/data/1: is missing"),
        (
            tensor("../../etc/passwd", 4, 0, &[4], &[1]),
            "a storage under the name ../../etc/passwd",
        ),
        (tensor("", 4, 0, &[4], &[1]), "a storage under the name"),
        (
            [
                b"(",
                &tensor("0", 4, 0, &[1], &[1])[..],
                &tensor("0", 2, 0, &[1], &[1]),
                b"t",
            ]
            .concat(),
            "storage 0 of 16 bytes, and of 8",
        ),
    ] {
        scratch.pickle(&value, why);
    }
    let twice = [
        &b"}("[..],
        &text("a.b"),
        &tensor("0", 4, 0, &[4], &[1]),
        &text("a"),
        b"}",
        &text("b"),
        &tensor("0", 4, 0, &[4], &[1]),
        b"su",
    ];
    scratch.pickle(&twice.concat(), "two tensors under the name a.b");
    // A type on a storage of another, and flags.
    let typed = [
        &b"ctorch._utils\n_rebuild_tensor_v3\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &int(4),
        b"tQK\x00",
        &sizes(&[4]),
        &sizes(&[1]),
        b"\x89Nctorch\nuint32\ntR",
    ];
    scratch.pickle(&typed.concat(), "a tensor of U32 on another storage");
    let plain = tensor("0", 4, 0, &[4], &[1]);
    let flagged = [&plain[..plain.len() - 2], b"}", &text("neg"), b"\x88stR"];
    scratch.pickle(&flagged.concat(), "a tensor with flags");
}

#[test]
fn archives_that_are_none() {
    let scratch = Scratch::new();
    let data = entry("w/data.pkl", &pickle(&tensor("0", 4, 0, &[4], &[1])));
    let storage = entry("w/data/0", &[0; 16]);
    let with = |extra: Entry| zip(&[data.clone(), storage.clone(), extra]);
    scratch.read(&with(entry("w/version", b"3\n"))).unwrap();
    for name in [
        "../x",
        "w/../../x",
        "/etc/passwd",
        "w\\x",
        "w/\0",
        "w/./x",
        "",
    ] {
        let line = scratch.refused(&with(entry(name, b"")), "names a record");
        assert!(line.contains("do not trust this file"), "{line}");
    }
    scratch.refused(&with(data.clone()), "has w/data.pkl twice");
    scratch.refused(&with(entry("v/data.pkl", b"N.")), "holds 2 data.pkl");
    scratch.refused(&zip(&[entry("readme", b"hello")]), "not a PyTorch file");
    scratch.refused(&with(entry("w/constants.pkl", b"")), "TorchScript");
    scratch.refused(&with(entry("w/byteorder", b"big")), "big-endian");
    scratch.refused(
        &with(entry("w/byteorder", b"middle")),
        "neither little nor big",
    );
    let wrong = |change: &dyn Fn(&mut Entry)| {
        let mut storage = storage.clone();
        change(&mut storage);
        zip(&[data.clone(), storage])
    };
    scratch.refused(&wrong(&|e| e.method = 8), "is compressed (zip method 8)");
    scratch.refused(&wrong(&|e| e.flags = 1), "encrypted");
    scratch.refused(&wrong(&|e| e.crc = Some(7)), "do not match their checksum");
    scratch.refused(&wrong(&|e| e.len = Some(17)), "beyond the file");
    scratch.refused(&wrong(&|e| e.len = Some(u32::MAX)), "beyond the file");
    scratch.refused(&wrong(&|e| e.len = Some(u32::MAX - 1)), "beyond the file");
    scratch.refused(
        &wrong(&|e| e.len = Some(12)),
        "has 12 bytes where its tensors want 16",
    );
    scratch.refused(&wrong(&|e| e.header = Some(1 << 30)), "beyond the file");
    scratch.refused(
        &wrong(&|e| e.header = Some(0)),
        "disagrees with the header of w/data/0",
    );
    scratch.refused(
        &wrong(&|e| e.local_name = Some("w/data/1".into())),
        "disagrees with the header",
    );
    // Two lines of the directory for the same bytes.
    let mut other = entry("w/data/1", &[0; 16]);
    other.header = Some(zip(std::slice::from_ref(&data)).len() as u32 - 22 - 46 - 10);
    other.local_name = Some("w/data/1".into());
    let mut inner = storage.clone();
    inner.local_name = Some("w/data/0".into());
    inner.len = Some(16 + 30 + 8 + 16);
    inner.crc = Some(0);
    let mut nested = other.clone();
    nested.header = None;
    scratch.refused(&zip(&[data.clone(), inner, nested]), "overlap");
    let whole = zip(&[data.clone(), storage.clone()]);
    scratch.refused(&[&whole[..], b"more"].concat(), "without an end");
    let mut counted = whole.clone();
    let end = counted.len() - 22;
    counted[end + 8..end + 12].copy_from_slice(&[0xff; 4]);
    scratch.refused(&counted, "claims 65535 records");
    let mut parts = whole.clone();
    parts[end + 4] = 1;
    scratch.refused(&parts, "in several parts");
    let mut moved = whole;
    moved[end + 16] ^= 0x40;
    scratch.refused(&moved, "the zip directory");
}

#[test]
fn other_formats_that_are_none() {
    let scratch = Scratch::new();
    let stream = golden("strides_stream");
    let mut big = stream.clone();
    let at = big.windows(13).position(|w| w == b"little_endian").unwrap();
    big[at + 15] = 0x89;
    scratch.refused(&big, "big-endian");
    scratch.refused(&pickle(&int(5)), "does not begin as torch.save begins one");
    scratch.refused(
        &[&stream[..], b"tail"].concat(),
        "4 bytes after the last storage",
    );
    let tar = golden("backbone_tar");
    let mut renamed = tar.clone();
    renamed[0] = b'x';
    scratch.refused(&renamed, "a broken tar header");
    let name = |what: &[u8]| tar.windows(what.len()).position(|w| w == what).unwrap();
    let mut sized = tar.clone();
    sized[name(b"tensors\0") + 124..][..11].copy_from_slice(b"77777777777");
    scratch.refused(&sized, "a broken tar header");
}

#[test]
fn a_note_that_does_not_fit_its_file() {
    let scratch = Scratch::new();
    let (plain, out) = (
        scratch.folder.path().join("w.pth.safetensors"),
        scratch.path(),
    );
    for note in [
        "nonsense",
        "{\"dict\": [[\"b\", {\"tensor\": true}]]}",
        "[]",
    ] {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![1], &[7]).unwrap();
        let meta = std::iter::once(("pytorch".to_string(), note.to_string())).collect();
        let bytes = safetensors::tensor::serialize([("a", view)], Some(meta)).unwrap();
        fs::write(&plain, bytes).unwrap();
        let line = convert(&plain, &out).unwrap_err().to_string();
        assert!(
            line.contains("metadata pytorch does not describe the tensors"),
            "{line}"
        );
    }
}

#[test]
fn every_truncation_is_noticed() {
    let scratch = Scratch::new();
    for name in [
        "alone",
        "strides",
        "unchecked",
        "kinds_stream",
        "strides_stream",
    ] {
        let whole = golden(name);
        for len in 0..whole.len() {
            scratch
                .read(&whole[..len])
                .expect_err(&format!("{name} cut at {len}"));
        }
    }
    // A tar archive ends in padding.
    let whole = golden("backbone_tar");
    let contents = scratch.read(&whole).unwrap();
    for len in 0..whole.len() {
        if let Ok(found) = scratch.read(&whole[..len]) {
            assert_eq!(found, contents, "cut at {len}");
            assert!(whole[len..].iter().all(|&b| b == 0), "cut at {len}");
        }
    }
}

/// Same up to the bits of NaNs, which compare as unequal.
fn same(a: &Contents, b: &Contents) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[test]
fn every_flipped_byte_is_noticed_where_there_are_checksums() {
    let scratch = Scratch::new();
    for name in ["alone", "strides"] {
        let whole = golden(name);
        let contents = scratch.read(&whole).unwrap();
        let mut noticed = 0;
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                match scratch.read(&bytes) {
                    // Padding, times, and records that nothing is read from.
                    Ok(found) => assert!(same(&found, &contents), "{name}: byte {at} ^ {flip}"),
                    Err(_) => noticed += 1,
                }
            }
        }
        assert!(noticed > whole.len(), "{name}: {noticed}");
    }
    for name in ["unchecked", "kinds_stream", "backbone_tar"] {
        let whole = golden(name);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            // No checksums: other values, or an error.
            let _ = scratch.read(&bytes);
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Damages `bytes` in one place; `other` lends pieces.
    fn damage(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            bytes.push(b'.');
        }
        let at = self.below(bytes.len());
        let room = bytes.len() - at;
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.below(256) as u8,
            // An opcode.
            2 => {
                bytes[at] = self
                    .pick(b"(.0KMJGXUCtq)}]NRbQhjaesucd\x80\x81\x85\x86\x87\x88\x8a\x8c\x93\x94")
            }
            // A number, at the edges of what its type holds.
            3 | 4 => {
                let value = self.pick(&[
                    0,
                    1,
                    2,
                    127,
                    255,
                    0xffff,
                    0x7fff_ffff,
                    0xffff_ffff,
                    1 << 40,
                    u64::MAX >> 1,
                    u64::MAX,
                ]);
                let len = self.pick(&[1usize, 2, 4, 8]).min(room);
                bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            5 => {
                let len = self.below(room.min(64));
                bytes.drain(at..at + len);
            }
            6 => {
                let len = self.below(room.min(64));
                let copy = bytes[at..at + len].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let from = self.below(other.len());
                let len = self.below((other.len() - from).min(64));
                bytes.splice(at..at, other[from..from + len].iter().copied());
            }
        }
    }
}

/// The records of a sound archive, from its directory.
fn unpack(bytes: &[u8]) -> Vec<Entry> {
    let word = |at: usize, n: usize| {
        bytes[at..at + n]
            .iter()
            .rev()
            .fold(0usize, |v, &b| v << 8 | usize::from(b))
    };
    let end = bytes.len() - 22;
    let (count, mut at) = (word(end + 10, 2), word(end + 16, 4));
    let mut entries = Vec::new();
    for _ in 0..count {
        let (len, name_len, header) = (word(at + 24, 4), word(at + 28, 2), word(at + 42, 4));
        let name = String::from_utf8(bytes[at + 46..at + 46 + name_len].to_vec()).unwrap();
        let start = header + 30 + word(header + 26, 2) + word(header + 28, 2);
        entries.push(entry(&name, &bytes[start..start + len]));
        at += 46 + name_len + word(at + 30, 2) + word(at + 32, 2);
    }
    entries
}

#[test]
fn mutated_files_never_panic() {
    let setting = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |t| {
            t.parse().unwrap_or_else(|_| panic!("{name} is no number"))
        })
    };
    let runs = setting("U2PL_PTH_FUZZ_RUNS", 3000);
    let mut random = Random(setting("U2PL_PTH_FUZZ_SEED", 1));
    let archives = [
        "kinds",
        "strides",
        "checkpoint",
        "things",
        "protocol4",
        "protocol5",
        "unchecked",
        "../pth_foreign/zip",
        "../pth_foreign/protocol5",
    ];
    let others = [
        "kinds_stream",
        "strides_stream",
        "checkpoint_stream",
        "backbone_tar",
        "../pth_foreign/stream",
    ];
    let seeds: Vec<Vec<u8>> = archives.iter().chain(&others).map(|n| golden(n)).collect();
    let scratch = Scratch::new();
    let (mut read, mut refused) = (0u64, 0u64);
    for run in 0..runs {
        let which = random.below(seeds.len());
        let other = &seeds[random.below(seeds.len())];
        let mut bytes = seeds[which].clone();
        // Half of the archives are packed again, so that the damage is behind a good checksum.
        let inside = which < archives.len() && random.below(2) == 0;
        let times = 1 + random.below(4);
        if inside {
            let mut entries = unpack(&bytes);
            for _ in 0..times {
                // Mostly the pickle, which comes first.
                let i = if random.below(4) > 0 {
                    0
                } else {
                    random.below(entries.len())
                };
                random.damage(&mut entries[i].data, other);
            }
            bytes = zip(&entries);
        } else {
            (0..times).for_each(|_| random.damage(&mut bytes, other));
        }
        let found = std::panic::catch_unwind(|| scratch.read(&bytes).is_ok());
        match found {
            Ok(true) => read += 1,
            Ok(false) => refused += 1,
            Err(_) => {
                let kept = std::env::temp_dir().join(format!("pth-fuzz-{run}.pth"));
                fs::write(&kept, &bytes).unwrap();
                panic!("run {run}: see {}", kept.display());
            }
        }
    }
    println!("{runs} files: {read} read, {refused} refused");
    assert!(
        refused > runs / 4 && read > 0,
        "{read} read, {refused} refused"
    );
}
