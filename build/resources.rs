//! What ptxas says of every kernel (`-Xptxas -v`), read out of nvcc's output.

/// One kernel on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// Kernel.
    pub kernel: String,
    /// `sm_80`.
    pub arch: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Local memory of a thread that is an array or a call frame, bytes.
    pub stack_bytes: u32,
    /// Registers that ptxas had to write to local memory, bytes.
    pub spill_store_bytes: u32,
    /// And to read back.
    pub spill_load_bytes: u32,
}

/// Every kernel of one unit's output. What a function that was not inlined needs counts for the
/// kernel that it is listed under.
pub fn parse(log: &str) -> Vec<Resource> {
    let mut found: Vec<Resource> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function ").nth(1) {
            let mut names = rest.split('\'').skip(1).step_by(2);
            if let (Some(kernel), Some(arch)) = (names.next(), names.next()) {
                found.push(Resource {
                    kernel: kernel.to_string(),
                    arch: arch.to_string(),
                    ..Resource::default()
                });
            }
            continue;
        }
        let Some(last) = found.last_mut() else {
            continue;
        };
        if let Some(n) = before(line, " bytes stack frame") {
            last.stack_bytes = last.stack_bytes.max(n);
            last.spill_store_bytes += before(line, " bytes spill stores").unwrap_or(0);
            last.spill_load_bytes += before(line, " bytes spill loads").unwrap_or(0);
        } else if let Some(n) = before(line, " registers") {
            last.registers = n;
            last.shared_bytes = before(line, " bytes smem").unwrap_or(0);
        }
    }
    found
}

/// The number in front of `unit`.
fn before(line: &str, unit: &str) -> Option<u32> {
    let (head, _) = line.split_once(unit)?;
    head.rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Lines that warn, from the compiler or from ptxas; its performance advice is only "info".
pub fn warnings(log: &str) -> impl Iterator<Item = &str> {
    log.lines().map(str::trim).filter(|line| {
        line.contains("warning") || line.contains("Performance") || line.contains("serialized")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'conv' for 'sm_80'
ptxas info    : Function properties for conv
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 14.082 ms
ptxas info    : Compiling entry function 'conv' for 'sm_90a'
ptxas info    : Function properties for conv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
";

    #[test]
    fn what_ptxas_says_is_read() {
        let found = parse(LOG);
        assert_eq!(found.len(), 2);
        let expected = Resource {
            kernel: "conv".into(),
            arch: "sm_80".into(),
            registers: 128,
            shared_bytes: 2048,
            stack_bytes: 16,
            spill_store_bytes: 8,
            spill_load_bytes: 4,
        };
        assert_eq!(found[0], expected);
        assert_eq!((found[1].registers, found[1].shared_bytes), (20, 0));
        assert_eq!(warnings(LOG).count(), 1);
        assert_eq!(parse("").len(), 0);
    }
}
