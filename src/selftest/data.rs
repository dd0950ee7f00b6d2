//! Reproducible data for cases: Philox keyed by the seed and by how many draws came before.

use half::bf16;

use crate::device::philox::{Rng, to_below, to_unit};

/// A source of data; each call draws from a stream of its own.
#[derive(Clone, Debug)]
pub struct Data {
    seed: u64,
    stream: u32,
}

impl Data {
    /// From the suite's seed and a name (a family's, say), so that families do not share data.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
        });
        Self {
            seed: seed ^ hash,
            stream: 0,
        }
    }

    fn rng(&mut self) -> Rng {
        self.stream += 1;
        Rng::seeded(self.seed, self.stream, 0)
    }

    /// `n` words.
    pub fn words(&mut self, n: usize) -> Vec<u32> {
        let rng = self.rng();
        let mut words: Vec<u32> = (0..n.div_ceil(4) as u64)
            .flat_map(|i| rng.block(i))
            .collect();
        words.truncate(n);
        words
    }

    /// A seed for an operation's random state.
    pub fn seed(&mut self) -> u64 {
        let words = self.words(2);
        u64::from(words[0]) << 32 | u64::from(words[1])
    }

    /// Integers on −k..=k as floats: sums of their products are exact in f32 while they stay
    /// below 2^24, and each is exact in bf16 while k ≤ 256.
    pub fn ints(&mut self, n: usize, k: u32) -> Vec<f32> {
        let below = |word: u32| to_below(word, 2 * k + 1) as f32 - k as f32;
        self.words(n).into_iter().map(below).collect()
    }

    /// Floats uniform on `low..high`.
    pub fn uniform(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        let scaled = |word: u32| low + (high - low) * to_unit(word);
        self.words(n).into_iter().map(scaled).collect()
    }

    /// Floats on ±`range`.
    pub fn floats(&mut self, n: usize, range: f32) -> Vec<f32> {
        self.uniform(n, -range, range)
    }

    /// Floats uniform on `low..high`, each a bf16 value.
    pub fn bf16s(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        let rounded = |v: f32| bf16::from_f32(v).to_f32();
        self.uniform(n, low, high)
            .into_iter()
            .map(rounded)
            .collect()
    }

    /// Integers on `0..below`.
    pub fn indices(&mut self, n: usize, below: u32) -> Vec<u32> {
        let scaled = |word: u32| to_below(word, below);
        self.words(n).into_iter().map(scaled).collect()
    }

    /// Bytes on 0..=255.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        self.words(n).into_iter().map(|w| (w >> 24) as u8).collect()
    }

    /// Labels on `0..classes`, a share of them (0 to 1) `ignore`.
    pub fn labels(&mut self, n: usize, classes: u32, ignore: u8, share: f32) -> Vec<u8> {
        let coins = self.uniform(n, 0.0, 1.0);
        let classes = self.indices(n, classes);
        let pairs = coins.into_iter().zip(classes);
        pairs
            .map(|(coin, c)| if coin < share { ignore } else { c as u8 })
            .collect()
    }

    /// Labels on `0..classes` without class `absent`.
    pub fn labels_without(&mut self, n: usize, classes: u32, absent: u8) -> Vec<u8> {
        let labels = self.indices(n, classes - 1).into_iter();
        labels
            .map(|c| c as u8 + u8::from(c as u8 >= absent))
            .collect()
    }

    /// Labels in square blocks of `side` pixels, as in a segmentation: `[images, h, w]`.
    pub fn patches(
        &mut self,
        [images, h, w]: [usize; 3],
        side: usize,
        classes: u32,
        ignore: u8,
        share: f32,
    ) -> Vec<u8> {
        let (rows, columns) = (h.div_ceil(side), w.div_ceil(side));
        let blocks = self.labels(images * rows * columns, classes, ignore, share);
        let mut labels = Vec::with_capacity(images * h * w);
        for i in 0..images {
            for y in 0..h {
                let row = (i * rows + y / side) * columns;
                labels.extend((0..w).map(|x| blocks[row + x / side]));
            }
        }
        labels
    }

    /// A permutation of `0..n`.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let keys = self.words(n);
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_key(|&i| (keys[i as usize], i));
        order
    }
}
