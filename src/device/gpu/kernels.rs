//! The kernels as Rust sees them: argument structs and typed constants that `build.rs` reads from
//! `kernels/*.cu`. A launch with the wrong arguments does not compile.
#![allow(missing_docs)] // generated; each field is documented where it is declared, in the .cu

use std::marker::PhantomData;

use super::driver::Ptr;

/// What a driver needs to know of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Symbol in the module.
    pub name: &'static str,
    /// Threads of a block; its `__launch_bounds__`.
    pub threads: u32,
    /// Bytes of its one argument struct.
    pub args_bytes: usize,
    /// Source file, without extension.
    pub unit: &'static str,
}

/// A kernel that takes an `A`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<A> {
    /// The untyped part.
    pub info: KernelInfo,
    args: PhantomData<fn(A)>,
}

impl<A> Kernel<A> {
    const fn new(name: &'static str, threads: u32, unit: &'static str) -> Self {
        Self {
            info: KernelInfo {
                name,
                threads,
                args_bytes: size_of::<A>(),
                unit,
            },
            args: PhantomData,
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

#[cfg(test)]
mod tests {
    use super::ALL;

    /// `a_{b,c}_d` as `a_b_d` and `a_c_d`.
    fn expanded(name: &str) -> Vec<String> {
        let braces = name.split_once('{').and_then(|(head, rest)| {
            let (choices, tail) = rest.split_once('}')?;
            Some((head, choices, tail))
        });
        let Some((head, choices, tail)) = braces else {
            return vec![name.to_string()];
        };
        choices
            .split(',')
            .flat_map(|choice| expanded(&format!("{head}{choice}{tail}")))
            .collect()
    }

    #[test]
    fn the_readme_names_every_kernel() {
        let readme = include_str!("../../../kernels/README.md");
        let named: Vec<String> = readme
            .split('`')
            .skip(1)
            .step_by(2)
            .flat_map(expanded)
            .collect();
        for kernel in ALL {
            assert!(
                named.iter().any(|name| name == kernel.name),
                "{}",
                kernel.name
            );
        }
    }
}
