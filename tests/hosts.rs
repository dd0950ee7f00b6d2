//! Programs that are not Rust: the header compiles, the examples in C, C++ and Python run against
//! this build's library and say what the Segmenter says; with sanitizers and valgrind looking on,
//! nothing is read that is not theirs and nothing is lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

#[path = "support/small.rs"]
mod small;

use small::{config, noise};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::infer::{Image, Options, Samples, Segmenter};

const HEIGHT: usize = 40;
const WIDTH: usize = 56;

/// A sanitizer's flags: what is found ends the program.
const SANITIZERS: [&str; 4] = [
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the libraries of this build: beside this test.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    for name in ["libu2pl_engine.so", "libu2pl_engine.a"] {
        assert!(folder.join(name).is_file(), "no {name} in {folder:?}");
    }
    folder.to_path_buf()
}

fn output(command: &mut Command) -> Output {
    let found = command.output();
    found.unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// What a program printed; it must have ended well and complained of nothing.
fn printed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = output(command);
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(
        status.success() && err.is_empty(),
        "{command:?}: {status}\n{out}{err}"
    );
    out.into_owned()
}

/// A run folder, a picture as PPM, what the Segmenter says of it, and room for programs.
struct Bench {
    dir: tempfile::TempDir,
    classes: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        small::run_folder(dir.path(), &config());
        let pixels = noise(HEIGHT, WIDTH, 3);
        let ppm = [
            format!("P6\n# noise\n{WIDTH} {HEIGHT} 255\n").into_bytes(),
            pixels.clone(),
        ];
        std::fs::write(dir.path().join("picture.ppm"), ppm.concat()).unwrap();
        let device = Arc::new(CpuDevice::new(2).unwrap());
        let segmenter = Segmenter::open(dir.path(), device, Options::default()).unwrap();
        let image = Image::rgb(Samples::U8(&pixels), HEIGHT, WIDTH).unwrap();
        let classes = segmenter.segment(&image).unwrap().classes;
        Self { dir, classes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program from `examples`, linked with `link`.
    fn build(&self, source: &str, flags: &[&str], link: &[&str]) -> PathBuf {
        let (compiler, standard) = match source.ends_with(".c") {
            true => ("cc", "-std=c99"),
            false => ("c++", "-std=c++11"),
        };
        let program = self.path("program");
        let made = printed(
            Command::new(compiler)
                .args([
                    standard,
                    "-O1",
                    "-Wall",
                    "-Wextra",
                    "-pedantic",
                    "-Werror",
                    "-pthread",
                ])
                .args(flags)
                .arg("-I")
                .arg(root().join("include"))
                .arg(root().join("examples").join(source))
                .args(link)
                .arg("-o")
                .arg(&program),
        );
        assert_eq!(made, "");
        program
    }

    /// As [`Bench::build`], with the shared library.
    fn shared(&self, source: &str, flags: &[&str]) -> PathBuf {
        let folder = libraries().display().to_string();
        let path = format!("-Wl,-rpath,{folder}");
        self.build(source, flags, &["-L", &folder, "-lu2pl_engine", &path])
    }

    /// The C program on the picture: it prints and writes what the Segmenter says.
    fn segments(&self, command: &mut Command) {
        let out = self.path("classes.pgm");
        let _ = std::fs::remove_file(&out);
        let told = printed(
            command
                .arg(self.dir.path())
                .arg(self.path("picture.ppm"))
                .arg(&out),
        );
        self.told(&told);
        self.wrote(&out);
    }

    /// How often each class was found is in `text`.
    fn told(&self, text: &str) {
        for class in self.classes.iter().collect::<BTreeSet<_>>() {
            let count = self.classes.iter().filter(|c| c == &class).count();
            let line = format!("class {class}: {count} pixels");
            assert!(text.lines().any(|l| l == line), "no `{line}` in: {text}");
        }
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    }

    fn wrote(&self, pgm: &Path) {
        let header = format!("P5\n{WIDTH} {HEIGHT}\n255\n").into_bytes();
        let expected = [header, self.classes.clone()].concat();
        assert!(std::fs::read(pgm).unwrap() == expected, "another class map");
    }
}

fn valgrind() -> Option<Command> {
    let mut command = Command::new("valgrind");
    if command.arg("--version").output().is_err() {
        println!("valgrind is not installed (apt-get install valgrind): not run");
        return None;
    }
    let mut command = Command::new("valgrind");
    command
        .args(["-q", "--error-exitcode=9", "--leak-check=full"])
        .args([
            "--errors-for-leak-kinds=definite",
            "--show-leak-kinds=definite",
        ]);
    Some(command)
}

#[test]
fn the_header_stands_alone_in_c_and_cpp() {
    let dir = tempfile::tempdir().unwrap();
    // Twice: the guard.
    let text = "#include \"u2pl_engine.h\"\n#include \"u2pl_engine.h\"\n\
                int main(void) { return u2pl_close(0) == U2PL_OK ? 0 : 1; }\n";
    for (compiler, name, standards) in [
        ("cc", "host.c", ["-std=c99", "-std=c11"]),
        ("c++", "host.cpp", ["-std=c++11", "-std=c++17"]),
    ] {
        let source = dir.path().join(name);
        std::fs::write(&source, text).unwrap();
        for standard in standards {
            let told = printed(
                Command::new(compiler)
                    .args([
                        standard,
                        "-fsyntax-only",
                        "-Wall",
                        "-Wextra",
                        "-pedantic",
                        "-Werror",
                    ])
                    .arg("-I")
                    .arg(root().join("include"))
                    .arg(&source),
            );
            assert_eq!(told, "");
        }
    }
}

#[test]
fn the_library_exports_what_the_header_declares() {
    let header = std::fs::read_to_string(root().join("include/u2pl_engine.h")).unwrap();
    let code = header.lines().filter(|l| !l.trim_start().starts_with("//"));
    let declared: BTreeSet<String> = code
        .filter_map(|line| line.split_once('(')?.0.split([' ', '*']).next_back())
        .filter(|name| name.starts_with("u2pl_"))
        .map(String::from)
        .collect();
    assert!(declared.len() >= 10, "{declared:?}");
    let library = libraries().join("libu2pl_engine.so");
    let symbols = printed(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(library),
    );
    let exported: BTreeSet<String> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .map(String::from)
        .collect();
    assert_eq!(exported, declared);
}

#[test]
fn the_c_program_says_what_the_segmenter_says() {
    let bench = Bench::new();
    let program = bench.shared("c/segment.c", &[]);
    bench.segments(&mut Command::new(&program));
    // Without a picture: a pattern.
    let told = printed(Command::new(&program).arg(bench.dir.path()));
    assert!(
        told.contains("96 x 64 pixels") && told.contains("mean entropy"),
        "{told}"
    );
}

#[test]
fn the_c_program_tells_what_is_wrong() {
    let bench = Bench::new();
    let program = bench.shared("c/segment.c", &SANITIZERS);
    let run = bench.dir.path().display().to_string();
    let weights = bench.path("none").display().to_string();
    let file = |name: &str, text: &[u8]| {
        std::fs::write(bench.path(name), text).unwrap();
        bench.path(name).display().to_string()
    };
    let short = file("short.ppm", b"P6 40 40 255\nfew");
    let none = file("none.ppm", b"P6 0 40 255\n");
    let text = file("text.ppm", b"P6 many");
    let config = bench.path("config.yaml").display().to_string();
    for (args, code, words) in [
        (&[][..], 2, "usage"),
        (&[&weights], 1, "none"),
        (&[&config], 1, "config.yaml"),
        (&[&run, &weights], 1, "cannot be opened"),
        (&[&run, &short], 1, "ends too early"),
        (&[&run, &text], 1, "not a binary PPM"),
        (&[&run, &none], 1, "a batch of 1 at 0 × 40"),
    ] {
        let Output { status, stderr, .. } = output(Command::new(&program).args(args));
        let told = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{args:?}: {told}");
        assert!(
            told.contains(words) && told.lines().count() == 1,
            "{args:?}: {told}"
        );
    }
}

#[test]
fn the_c_program_with_the_static_library() {
    let bench = Bench::new();
    let library = libraries().join("libu2pl_engine.a").display().to_string();
    let mut link = vec![&library[..], "-lm", "-ldl", "-lrt", "-lutil", "-lgcc_s"];
    if cfg!(feature = "simt") {
        link.push("-lstdc++");
    }
    let program = bench.build("c/segment.c", &[], &link);
    bench.segments(&mut Command::new(program));
}

#[test]
fn the_cpp_program_gets_the_same_from_every_thread() {
    let bench = Bench::new();
    let program = bench.shared("cpp/segment.cpp", &[]);
    let told = printed(
        Command::new(&program)
            .arg(bench.dir.path())
            .args(["4", "3"]),
    );
    assert!(told.contains("4 classes; 4 threads, 12 pictures"), "{told}");
    let wrong = output(Command::new(&program).arg(bench.path("none")));
    assert_eq!(wrong.status.code(), Some(1));
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(told.contains("status 3") && told.contains("none"), "{told}");
}

#[test]
fn sanitizers_find_nothing_in_c_and_cpp() {
    let bench = Bench::new();
    let leaks = ("ASAN_OPTIONS", "detect_leaks=1");
    let program = bench.shared("c/segment.c", &SANITIZERS);
    bench.segments(Command::new(program).env(leaks.0, leaks.1));
    let program = bench.shared("cpp/segment.cpp", &SANITIZERS);
    let told = printed(
        Command::new(program)
            .env(leaks.0, leaks.1)
            .arg(bench.dir.path())
            .args(["3", "2"]),
    );
    assert!(told.contains("3 threads, 6 pictures"), "{told}");
}

#[test]
fn sanitizers_would_find_a_leak() {
    let bench = Bench::new();
    let source = root().join("examples/c/segment.c");
    let text = std::fs::read_to_string(source).unwrap();
    let planted = text.replace("  free(maps.entropy);\n", "");
    assert_ne!(text, planted);
    std::fs::write(bench.path("leaky.c"), planted).unwrap();
    let leaky = bench.path("leaky.c").display().to_string();
    let program = bench.shared(&leaky, &SANITIZERS);
    let found = output(Command::new(program).arg(bench.dir.path()));
    let told = String::from_utf8_lossy(&found.stderr);
    assert!(
        !found.status.success() && told.contains("LeakSanitizer"),
        "{told}"
    );
}

#[test]
fn valgrind_finds_nothing_in_c_and_cpp() {
    let (Some(mut first), Some(mut second)) = (valgrind(), valgrind()) else {
        return;
    };
    let bench = Bench::new();
    let program = bench.shared("c/segment.c", &["-g"]);
    bench.segments(first.arg(program));
    let program = bench.shared("cpp/segment.cpp", &["-g"]);
    let told = printed(second.arg(program).arg(bench.dir.path()).args(["2", "2"]));
    assert!(told.contains("2 threads, 4 pictures"), "{told}");
}

/// `PYTHON` names another interpreter than `python3`.
#[test]
fn the_python_program_says_what_the_segmenter_says() {
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    if Command::new(&python).arg("--version").output().is_err() {
        println!("no {python}: not run");
        return;
    }
    let bench = Bench::new();
    let run = |settings: &[(&str, &Path)], args: &[&str]| {
        let out = bench.path("classes.pgm");
        let _ = std::fs::remove_file(&out);
        let told = printed(
            Command::new(&python)
                .arg(root().join("examples/python/segment.py"))
                .arg("--library")
                .arg(libraries().join("libu2pl_engine.so"))
                .arg(bench.dir.path())
                .arg(bench.path("picture.ppm"))
                .arg("--out")
                .arg(&out)
                .args(args)
                .envs(settings.iter().copied()),
        );
        bench.told(&told);
        bench.wrote(&out);
        told
    };
    // Without numpy, and with it where it is installed.
    let hidden = bench.path("hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::write(hidden.join("numpy.py"), "raise ImportError\n").unwrap();
    let told = run(&[("PYTHONPATH", &hidden)], &[]);
    assert!(told.contains("without numpy"), "{told}");
    if run(&[], &[]).contains("without numpy") {
        println!("{python} has no numpy: DLPack was not run");
        return;
    }
    let told = run(&[], &["--dlpack"]);
    assert!(told.contains("by DLPack: the same"), "{told}");
}
