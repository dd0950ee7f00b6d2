//! Plain loops compiled twice: for the baseline of the target and for AVX2.
//!
//! The compiler's baseline on x86-64 is 128 bits wide. Memory-bound loops and those over channels
//! gain from 256; what they compute does not change by a bit, since Rust never contracts a product
//! and a sum.

/// Defines functions whose bodies run in the widest form that the processor has.
macro_rules! vectorised {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        #[inline]
        $vis fn $name $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn plain $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the instruction set.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    )*};
}

pub(super) use vectorised;
