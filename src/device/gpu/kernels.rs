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
