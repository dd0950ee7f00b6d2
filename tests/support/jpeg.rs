//! A small JPEG writer for what cameras do not write: any sampling, a scan for each component or any
//! grouping of them, restart intervals, hints about colours; baseline, or progressive by bands of
//! frequencies.
//!
//! The Huffman codes are plain: four bits for a size of DC, eight for each other symbol.
#![allow(dead_code)] // each test binary uses a part

use std::f64::consts::PI;

/// What to write.
#[derive(Clone, Debug)]
pub struct Jpeg {
    pub width: usize,
    pub height: usize,
    /// Samples across and down of each component.
    pub sampling: Vec<(usize, usize)>,
    /// Components of each scan.
    pub scans: Vec<Vec<usize>>,
    pub ids: Vec<u8>,
    /// Segments behind the start marker, whole.
    pub markers: Vec<u8>,
    /// Units between restart markers; 0 without.
    pub restart: usize,
    /// Bytes before each segment.
    pub stray: Vec<u8>,
    /// Means first, then two bands of frequencies of each component, each in scans of its own.
    pub progressive: bool,
}

pub const JFIF: &[u8] = b"\xFF\xE0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0";

/// Adobe's segment with a colour transform.
pub fn adobe(transform: u8) -> Vec<u8> {
    [b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0" as &[u8], &[transform]].concat()
}

/// An APP1 segment with a TIFF block that holds one orientation.
pub fn exif(orientation: u8, little: bool) -> Vec<u8> {
    let block = tiff(orientation, little);
    let mut out = vec![0xFF, 0xE1];
    out.extend((block.len() as u16 + 8).to_be_bytes());
    out.extend(b"Exif\0\0");
    out.extend(block);
    out
}

/// A TIFF block that holds one orientation.
pub fn tiff(orientation: u8, little: bool) -> Vec<u8> {
    match little {
        true => {
            let head = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
            [&head[..], &[orientation, 0, 0, 0], &[0; 4]].concat()
        }
        false => {
            let head = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01";
            [&head[..], &[0, orientation, 0, 0], &[0; 4]].concat()
        }
    }
}

impl Jpeg {
    pub fn new(width: usize, height: usize, sampling: &[(usize, usize)]) -> Self {
        let count = sampling.len();
        Self {
            width,
            height,
            sampling: sampling.to_vec(),
            scans: vec![(0..count).collect()],
            ids: (1..=count as u8).collect(),
            markers: JFIF.to_vec(),
            restart: 0,
            stray: Vec::new(),
            progressive: false,
        }
    }

    /// The file of `planes`, one for each component, each of full size.
    pub fn encode(&self, planes: &[Vec<u8>]) -> Vec<u8> {
        let most = |side: fn(&(usize, usize)) -> usize| self.sampling.iter().map(side).max();
        let most = (most(|s| s.0).unwrap(), most(|s| s.1).unwrap());
        let units = (
            self.width.div_ceil(8 * most.0),
            self.height.div_ceil(8 * most.1),
        );
        let blocks: Vec<Vec<[i32; 64]>> = planes
            .iter()
            .zip(&self.sampling)
            .map(|(plane, own)| self.transform(plane, *own, most, units))
            .collect();
        let mut out = vec![0xFF, 0xD8];
        out.extend(&self.markers);
        let segment = |out: &mut Vec<u8>, marker: u8, body: &[u8]| {
            out.extend(&self.stray);
            out.extend([0xFF, marker]);
            out.extend((body.len() as u16 + 2).to_be_bytes());
            out.extend(body);
        };
        segment(&mut out, 0xDB, &[&[0][..], &[2; 64]].concat());
        let mut frame = vec![8];
        frame.extend((self.height as u16).to_be_bytes());
        frame.extend((self.width as u16).to_be_bytes());
        frame.push(planes.len() as u8);
        for (id, (across, down)) in self.ids.iter().zip(&self.sampling) {
            frame.extend([*id, (across << 4 | down) as u8, 0]);
        }
        segment(&mut out, if self.progressive { 0xC2 } else { 0xC0 }, &frame);
        for (class, bits, symbols) in [(0, 4, 12), (0x10, 8, 255)] {
            let mut table = vec![class];
            table.extend((1..=16).map(|n| if n == bits { symbols } else { 0 }));
            table.extend(0..symbols);
            segment(&mut out, 0xC4, &table);
        }
        if self.restart > 0 {
            segment(&mut out, 0xDD, &(self.restart as u16).to_be_bytes());
        }
        let mut scans: Vec<(Vec<usize>, (usize, usize))> = Vec::new();
        let end = if self.progressive { 0 } else { 63 };
        scans.extend(self.scans.iter().map(|scan| (scan.clone(), (0, end))));
        if self.progressive {
            for band in [(1, 5), (6, 63)] {
                scans.extend(self.scans.concat().into_iter().map(|c| (vec![c], band)));
            }
        }
        for (scan, band) in scans {
            let mut head = vec![scan.len() as u8];
            head.extend(scan.iter().flat_map(|&c| [self.ids[c], 0]));
            head.extend([band.0 as u8, band.1 as u8, 0]);
            segment(&mut out, 0xDA, &head);
            out.extend(self.scan(&scan, band, &blocks, most, units));
        }
        out.extend([0xFF, 0xD9]);
        out
    }

    /// Quantised coefficients in zigzag order, block by block, of a plane averaged down.
    fn transform(
        &self,
        plane: &[u8],
        own: (usize, usize),
        most: (usize, usize),
        units: (usize, usize),
    ) -> Vec<[i32; 64]> {
        let (across, down) = (most.0 / own.0, most.1 / own.1);
        let (columns, rows) = (units.0 * own.0, units.1 * own.1);
        let sample = |x: usize, y: usize| -> f64 {
            let mut sum = 0.0;
            for dy in 0..down {
                for dx in 0..across {
                    let px = (x * across + dx).min(self.width - 1);
                    let py = (y * down + dy).min(self.height - 1);
                    sum += f64::from(plane[py * self.width + px]);
                }
            }
            sum / (across * down) as f64 - 128.0
        };
        let basis: Vec<f64> = (0..64)
            .map(|i| {
                let (x, u) = ((i / 8) as f64, (i % 8) as f64);
                let norm = if i % 8 == 0 { 0.125f64.sqrt() } else { 0.5 };
                norm * ((2.0 * x + 1.0) * u * PI / 16.0).cos()
            })
            .collect();
        let mut out = Vec::with_capacity(columns * rows);
        for by in 0..rows {
            for bx in 0..columns {
                let pixels: Vec<f64> = (0..64)
                    .map(|i| sample(8 * bx + i % 8, 8 * by + i / 8))
                    .collect();
                let mut block = [0; 64];
                for (k, slot) in block.iter_mut().enumerate() {
                    let (u, v) = zigzag(k);
                    let sum: f64 = (0..64)
                        .map(|i| pixels[i] * basis[8 * (i % 8) + u] * basis[8 * (i / 8) + v])
                        .sum();
                    *slot = (sum / 2.0).round() as i32;
                }
                out.push(block);
            }
        }
        out
    }

    fn scan(
        &self,
        scan: &[usize],
        band: (usize, usize),
        blocks: &[Vec<[i32; 64]>],
        most: (usize, usize),
        units: (usize, usize),
    ) -> Vec<u8> {
        let mut order: Vec<Vec<(usize, usize)>> = Vec::new();
        if let [c] = scan {
            let own = self.sampling[*c];
            let columns = (self.width * own.0).div_ceil(most.0).div_ceil(8);
            let rows = (self.height * own.1).div_ceil(most.1).div_ceil(8);
            let stride = units.0 * own.0;
            order.extend(
                (0..columns * rows).map(|i| vec![(*c, i / columns * stride + i % columns)]),
            );
        } else {
            for i in 0..units.0 * units.1 {
                let (ux, uy) = (i % units.0, i / units.0);
                let mut unit = Vec::new();
                for &c in scan {
                    let own = self.sampling[c];
                    for j in 0..own.0 * own.1 {
                        let (x, y) = (ux * own.0 + j % own.0, uy * own.1 + j / own.0);
                        unit.push((c, y * units.0 * own.0 + x));
                    }
                }
                order.push(unit);
            }
        }
        let mut bits = Bits::default();
        let mut before = [0; 4];
        for (i, unit) in order.iter().enumerate() {
            if self.restart > 0 && i > 0 && i % self.restart == 0 {
                bits.pad();
                bits.out
                    .extend([0xFF, 0xD0 + ((i / self.restart - 1) % 8) as u8]);
                before = [0; 4];
            }
            for &(c, at) in unit {
                let block = &blocks[c][at];
                if band.0 == 0 {
                    bits.value(0, 4, block[0] - before[c]);
                    before[c] = block[0];
                }
                let mut run = 0;
                for &value in &block[band.0.max(1)..=band.1] {
                    if value == 0 {
                        run += 1;
                        continue;
                    }
                    while run > 15 {
                        bits.put(0xF0, 8);
                        run -= 16;
                    }
                    bits.value(run, 8, value);
                    run = 0;
                }
                if run > 0 {
                    bits.put(0, 8);
                }
            }
        }
        bits.pad();
        bits.out
    }
}

/// (across, down) frequency of a coefficient.
fn zigzag(k: usize) -> (usize, usize) {
    let mut at: Vec<usize> = (0..64).collect();
    at.sort_by_key(|&i| {
        let (x, y) = (i % 8, i / 8);
        (x + y, if (x + y) % 2 == 1 { y } else { x })
    });
    (at[k] % 8, at[k] / 8)
}

#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for i in (0..count).rev() {
            self.held = self.held << 1 | (value >> i & 1);
            self.count += 1;
            if self.count == 8 {
                self.out.push(self.held as u8);
                if self.held == 0xFF {
                    self.out.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    /// A run of zeros and a value behind it, by a code of `length` bits.
    fn value(&mut self, run: u32, length: u32, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        self.put(run << 4 | size, length);
        let bits = match value < 0 {
            true => value + (1 << size) - 1,
            false => value,
        };
        self.put(bits as u32, size);
    }

    fn pad(&mut self) {
        while self.count > 0 {
            self.put(1, 1);
        }
    }
}

/// Smooth colours, so that little is lost where chroma has few samples: packed RGB.
pub fn picture(width: usize, height: usize) -> Vec<u8> {
    let wave = |t: f64| (128.0 + 100.0 * t.sin()) as u8;
    (0..width * height)
        .flat_map(|i| {
            let (x, y) = ((i % width) as f64, (i / width) as f64);
            [
                wave(x / 19.0),
                wave(y / 17.0 + 1.0),
                wave((x + y) / 23.0 + 2.0),
            ]
        })
        .collect()
}

/// The planes of packed RGB, as they are.
pub fn rgb_planes(rgb: &[u8]) -> Vec<Vec<u8>> {
    (0..3)
        .map(|c| rgb.iter().skip(c).step_by(3).copied().collect())
        .collect()
}

/// The planes of packed RGB as luma and two differences of colour.
pub fn ycc_planes(rgb: &[u8]) -> Vec<Vec<u8>> {
    let rows = [
        [0.299, 0.587, 0.114, 0.0],
        [-0.168_736, -0.331_264, 0.5, 128.0],
        [0.5, -0.418_688, -0.081_312, 128.0],
    ];
    let plane = |row: &[f64; 4]| {
        let value = |p: &[u8]| row[3] + (0..3).map(|c| row[c] * f64::from(p[c])).sum::<f64>();
        rgb.chunks(3)
            .map(|p| value(p).round().clamp(0.0, 255.0) as u8)
            .collect()
    };
    rows.iter().map(plane).collect()
}

/// Mean difference of two pictures, of 255.
pub fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.len() as f64
}
