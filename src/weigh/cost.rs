//! What ptxas makes of a PTX instruction: issue slots, the pipe that executes them, products.
//!
//! PTX is not what the chip runs. Moves and reads of parameters vanish, arithmetic of 64 bits is done in
//! two halves, divisions become sequences. The table below says so by opcode; it is an estimate, and the
//! loops of `kernels/loops.tsv`, which are of the compiled code, say how good.

/// Who executes an instruction beside the scheduler that issues it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Integer additions, comparisons, logic.
    Integer,
    /// Floats of 32 bits, integer products.
    Float,
    /// Floats of 64 bits.
    Double,
    /// Reciprocals, exponentials, conversions, bit counts.
    Special,
    /// Memory, barriers, branches, tensor cores: counted elsewhere.
    None,
}

/// How a tensor core is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `mma.sync`.
    Mma,
    /// `wgmma`.
    Wgmma,
}

/// Products of a warp's tensor instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Products {
    /// How.
    pub unit: Unit,
    /// How many, counted in those of 16-bit floats: one of tf32 takes as long as two, two of 8 bits as one.
    pub halves: f64,
}

/// What an instruction costs a warp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Instructions that are issued.
    pub slots: f64,
    /// Their pipe.
    pub pipe: Pipe,
    /// Of the tensor core.
    pub products: Option<Products>,
}

/// Of an opcode with its modifiers.
pub fn of(opcode: &str) -> Cost {
    let parts: Vec<&str> = opcode.split('.').collect();
    let head = parts.first().copied().unwrap_or_default();
    let has = |part: &str| parts.contains(&part);
    let wide = has("u64") || has("s64") || has("b64");
    let float = has("f32") || has("f16") || has("bf16") || has("f16x2") || has("bf16x2");
    let double = has("f64");
    let cost = |slots: f64, pipe| Cost {
        slots,
        pipe,
        products: None,
    };
    // An operation that takes `n` instructions where it is done in two halves.
    let integer = |n: f64| cost(if wide { n } else { 1.0 }, Pipe::Integer);
    match head {
        "mma" | "wgmma" => Cost {
            slots: 1.0,
            pipe: Pipe::None,
            products: products(head, &parts),
        },
        "mov" | "cvta" | "ret" | "exit" => cost(0.0, Pipe::None),
        "ld" if has("param") => cost(0.0, Pipe::None),
        "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "neg" | "abs" if double => {
            cost(1.0, Pipe::Double)
        }
        "add" | "sub" | "mul" | "fma" | "mad" if float => cost(1.0, Pipe::Float),
        "mul" | "mad" if has("wide") => cost(1.0, Pipe::Float),
        "mul" | "mad" if has("hi") => cost(if wide { 8.0 } else { 2.0 }, Pipe::Float),
        "mul" | "mad" => cost(if wide { 4.0 } else { 1.0 }, Pipe::Float),
        "min" | "max" => integer(4.0),
        "div" | "rem" if double => cost(20.0, Pipe::Double),
        "div" if float => cost(
            if has("approx") || has("full") {
                2.0
            } else {
                9.0
            },
            Pipe::Float,
        ),
        "div" | "rem" => cost(if wide { 70.0 } else { 18.0 }, Pipe::Integer),
        "sqrt" | "rcp" | "rsqrt" if double => cost(20.0, Pipe::Double),
        "sqrt" | "rcp" if has("rn") => cost(7.0, Pipe::Float),
        "ex2" | "lg2" if !has("ftz") => cost(3.0, Pipe::Special),
        "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
            cost(1.0, Pipe::Special)
        }
        "popc" | "brev" | "bfind" | "clz" => cost(1.0, Pipe::Special),
        "cvt" => conversion(&parts),
        "setp" | "set" | "selp" | "slct" | "and" | "or" | "xor" | "not" | "shl" | "shr" | "add"
        | "sub" => integer(2.0),
        "shf" | "bfi" | "bfe" | "prmt" | "lop3" | "neg" | "abs" | "sad" => integer(2.0),
        _ => cost(1.0, Pipe::None),
    }
}

/// Between integers of 32 and 64 bits nothing or a sign is to be done; the rest is by type.
fn conversion(parts: &[&str]) -> Cost {
    let types: Vec<&str> = parts.iter().rev().take(2).copied().collect();
    let is_float = |t: &str| t.starts_with('f') || t.starts_with("bf") || t == "tf32";
    let (slots, pipe) = match types[..] {
        ["u32" | "b32", "u64" | "s64" | "b64"] => (0.0, Pipe::Integer),
        ["u64" | "s64" | "b64", "u32" | "s32" | "b32"] => (0.0, Pipe::Integer),
        // bf16 to f32 is a shift; pairs of f32 to bf16x2 have an instruction of their own.
        ["bf16", "f32"] => (1.0, Pipe::Integer),
        [_, "bf16x2" | "bf16" | "f16x2"] => (1.0, Pipe::Integer),
        [from, to] if is_float(from) || is_float(to) => (1.0, Pipe::Special),
        _ => (1.0, Pipe::Integer),
    };
    Cost {
        slots,
        pipe,
        products: None,
    }
}

/// `m16n8k16` and the like: a warp's share of the products.
fn products(head: &str, parts: &[&str]) -> Option<Products> {
    let shape = parts.iter().find_map(|part| {
        let (m, rest) = part.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        let number = |text: &str| text.parse::<f64>().ok();
        Some([number(m)?, number(n)?, number(k)?])
    });
    let has = |part: &str| parts.contains(&part);
    let [m, n, k] = shape?;
    // A warp of the four that make a wgmma has a quarter of its rows.
    let (unit, rows) = match head {
        "wgmma" => (Unit::Wgmma, m / 4.0),
        _ => (Unit::Mma, m),
    };
    let weight = if has("tf32") {
        2.0
    } else if has("e4m3") || has("e5m2") || has("s8") || has("u8") {
        0.5
    } else {
        1.0
    };
    Some(Products {
        unit,
        halves: weight * rows * n * k,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_shapes() {
        let halves = |opcode: &str| of(opcode).products.map(|p| (p.unit, p.halves));
        let mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
        assert_eq!(halves(mma), Some((Unit::Mma, 2048.0)));
        let tf32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32";
        assert_eq!(halves(tf32), Some((Unit::Mma, 2048.0)));
        let wgmma = "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16";
        assert_eq!(halves(wgmma), Some((Unit::Wgmma, 65536.0)));
        assert_eq!(halves("wgmma.fence.sync.aligned"), None);
    }

    #[test]
    fn slots() {
        for (opcode, slots, pipe) in [
            ("mov.u32", 0.0, Pipe::None),
            ("ld.param.u64", 0.0, Pipe::None),
            ("ld.global.nc.v4.u32", 1.0, Pipe::None),
            ("add.s64", 2.0, Pipe::Integer),
            ("add.s32", 1.0, Pipe::Integer),
            ("mad.lo.s32", 1.0, Pipe::Float),
            ("mul.wide.u32", 1.0, Pipe::Float),
            ("fma.rn.f32", 1.0, Pipe::Float),
            ("div.u32", 18.0, Pipe::Integer),
            ("cvt.u64.u32", 0.0, Pipe::Integer),
            ("cvt.s64.s32", 1.0, Pipe::Integer),
            ("cvt.u32.u64", 0.0, Pipe::Integer),
            ("cvt.rn.f32.u32", 1.0, Pipe::Special),
            ("cvt.rn.bf16x2.f32", 1.0, Pipe::Integer),
            ("bar.sync", 1.0, Pipe::None),
        ] {
            let got = of(opcode);
            assert_eq!((got.slots, got.pipe), (slots, pipe), "{opcode}");
        }
    }
}
