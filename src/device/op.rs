//! The operation set (design §4): what a device must be able to do.
//!
//! Each variant documents its inputs and outputs in order. `B` images, `H × W` label resolution,
//! `h × w` feature resolution, `C` classes, `D` representation width, `P = B·h·w` feature pixels.
//! Labels are dense `u8` maps `[B, H, W, 1]`; where C is known a label ≥ C counts as ignored.
//! Scalars are `f32 [1, 1, 1, n]`. `rng` is the `u32 [1, 1, 1, 4]` state
//! `{seed_lo, seed_hi, step, 0}`; an operation's `stream` tells its draws from another's.
//! "in/out" names an output whose previous contents are read.
//!
//! Where the precision is bf16 some operands may be bf16 instead of f32: the maps of
//! batch norm, ReLU, pooling, resize and dropout (all maps of a call alike, vectors stay f32); a
//! convolution's `x`, `w`, `dy` (all alike), its `y` and `dx` (each f32 or bf16; bias, `dw`,
//! `dbias` and moments stay f32); `Copy` converts between the two; `SgdEma` and `Lerp` write bf16 copies
//! beside the f32 originals. Arithmetic is f32 throughout, rounded once per element written.

use super::{DType, View};

/// Geometry of a two-dimensional convolution or pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// Step between output pixels, both axes.
    pub stride: usize,
    /// Zero padding on each side, both axes.
    pub padding: usize,
    /// Distance between taps, both axes.
    pub dilation: usize,
}

/// Pixels of a map whose moments are taken together ([`Op::ConvMoments`]): as many as the smallest
/// tile of a GPU's convolution has, of which the others have a multiple.
pub const MOMENT_PIXELS: usize = 64;

/// Attributes of [`Op::ConvBatchNormEval`].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ConvNorm {
    /// Of the convolution.
    pub window: Window,
    /// Whether the convolution has a bias.
    pub bias: bool,
    /// ε of the batch norm.
    pub eps: f32,
    /// Apply ReLU last.
    pub relu: bool,
}

/// Random resize, flip, pad, crop and normalise (method §3).
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Augment {
    /// Random resize range; half the time U(min, 1), else U(1, max). `(1, 1)` keeps the size.
    pub scale: (f32, f32),
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Random crop position; centre crop when false.
    pub random_crop: bool,
    /// Per-channel mean, RGB 0–255.
    pub mean: [f32; 3],
    /// Per-channel standard deviation, RGB 0–255.
    pub std: [f32; 3],
    /// Label of padded pixels: the ignore index, or 0 in mode `released` (method §4 row 10).
    pub pad_label: u8,
    /// Random stream.
    pub stream: u32,
}

/// Strong augmentation within the unlabelled batch (method §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum MixKind {
    /// Identity.
    None,
    /// A box of half the area, filled from the next image.
    CutMix,
    /// Half of this image's classes, pasted on the next image.
    ClassMix,
    /// A box is zeroed, its label set to ignore.
    CutOut,
}

/// What the mean of a cross-entropy is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum CeNorm {
    /// Mean over valid pixels.
    Valid,
    /// Mean over valid pixels times (all pixels)/(valid pixels): L_u · λ_u of method §1.
    ValidTimesAllOverValid,
    /// Sum over valid pixels divided by all pixels (FixMatch, Sohn et al. 2020, equation 4).
    All,
}

/// Which text the U2PL operations follow (method §1 or §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Variant {
    /// The paper.
    Paper,
    /// The authors' released code.
    Released,
}

/// Unlabelled pixels that may be negatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NegativePixels {
    /// Those with H > γ, the method's own.
    #[default]
    Unreliable,
    /// Those with H ≤ γ.
    Reliable,
    /// All of them.
    All,
    /// None: labelled pixels alone.
    Labeled,
}

/// Attributes of [`Op::Partition`].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Partition {
    /// Which masks (method §1 or §4 rows 1–3, 5, 6).
    pub variant: Variant,
    /// Number of classes C.
    pub classes: usize,
    /// Ignore label.
    pub ignore: u8,
    /// δ_p: anchors need p(c) > δ_p.
    pub delta_p: f32,
    /// r_l.
    pub low_rank: u32,
    /// r_h.
    pub high_rank: u32,
    /// Unlabelled pixels that may be negatives, variant `Paper` alone.
    pub unlabeled: NegativePixels,
}

/// Attributes of [`Op::InfoNce`] and its backward.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct InfoNce {
    /// `Released` reproduces method §4 rows 4 and 13.
    pub variant: Variant,
    /// Anchors per class, M.
    pub anchors: usize,
    /// Negatives per anchor, N.
    pub negatives: usize,
    /// τ.
    pub temperature: f32,
    /// Capacity of each class's ring in the bank, in entries.
    pub capacities: Vec<u32>,
    /// Random stream of the anchor draw; the negatives' draw uses `stream + 1`.
    pub stream: u32,
}

/// A contiguous run of parameters with one learning-rate factor.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SgdGroup {
    /// First element in the flat parameter vector.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
    /// Factor on the base learning rate.
    pub lr_mult: f32,
    /// L2 penalty added to the gradient.
    pub weight_decay: f32,
}

/// One fused operation.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub enum Op {
    /// Sets every element. outs: `[y]` (any dtype; the value is converted).
    Fill {
        /// The value.
        value: f32,
    },
    /// Copies. ins: `[x]`; outs: `[y]`, same shape, any `ld`; same dtype, or one of f32 and bf16
    /// to the other (accumulates into f32 only).
    Copy,
    /// `dst ← m·dst + (1−m)·src`, exact copy at m = 0, untouched at m = 1.
    /// ins: `[src f32, m f32[1]]`; outs: `[dst]` in/out, or `[dst, copy bf16]`: the new `dst`.
    Lerp,
    /// Weak augmentation: u8 images and labels to a normalised crop. Resize to
    /// `⌊h·s⌋ × ⌊w·s⌋`, at least 1 (s drawn per image; bilinear half-pixel on the image, nearest
    /// on the label, both with coordinate scale in/out as in PyTorch's `interpolate(size=…)`),
    /// flip, pad each axis to the crop (⌊padding/2⌋ before, the rest after; image 0 after
    /// normalising, label `pad_label`), crop.
    /// ins: `[images u8 [B,1,1,3·cap], labels u8 [B,1,1,cap], sizes u32 [B,1,1,2] (h, w), rng]`,
    /// each image densely packed at the start of its row;
    /// outs: `[x f32 [B,H,W,3], label u8 [B,H,W,1]]`.
    /// Draws of image b: block `2b` → (coin, scale, flip, –) as floats on [0, 1), block `2b+1` →
    /// (y, x, –, –) as integers on `0..=size − crop`; without `random_crop`, `⌊(size − crop)/2⌋`.
    ///
    /// All in f32 without fused multiply-add: `s = lo + (hi − lo)·u`, (lo, hi) = (min, 1) where
    /// coin < 0.5, else (1, max); flip where u < `flip`; `scale = in/out`. Image:
    /// `t = max((i + 0.5)·scale − 0.5, 0)`, `low = ⌊t⌋`, `f = t − low`, neighbours clamped to the
    /// image, `(1 − f)·v_low + f·v_high` along columns, then along rows, then `(v − mean)/std`
    /// (the authors normalise first: equal up to rounding). Label: `min(⌊i·scale⌋, in − 1)`.
    Augment(Augment),
    /// Strong augmentation with probability `prob` for the whole batch (coin < `prob`), else a
    /// copy. Image b is mixed with image (b+1) mod B: inside the box (cutmix), or outside b's
    /// chosen classes (classmix), pixels come from the latter; cut-out makes the box 0 and ignore.
    /// ins: `[x f32 [B,H,W,3], label u8, extra u8, rng]`; outs: `[x', label', extra']`; `extra`
    /// is a second label map mixed alike (ground truth for diagnostics; cut-out sets ignore).
    /// Draws: block 0 word 0 → the batch coin; image b, box: block `1+b` → (width, y, x, –) as
    /// integers: width on `⌊W/2⌋ + 1 ..= W − 1` (`W` where that is empty), height
    /// `H·W/2/width` rounded half to even, y on `0..=H − height`, x on `0..=W − width`;
    /// classmix: each of the n classes in `label` of image b (ignore is none) is keyed by word 0
    /// of block `(1+b)·256 + class`; the ⌊n/2⌋ smallest keys are chosen, ties by class.
    Mix {
        /// Which.
        kind: MixKind,
        /// Probability per step.
        prob: f32,
        /// Ignore label.
        ignore: u8,
        /// Random stream.
        stream: u32,
    },
    /// 2-D convolution (cross-correlation). ins: `[x [N,H,W,C], w [K,R,S,C]]` or
    /// `[x, w, bias [1,1,1,K]]`; outs: `[y [N,Ho,Wo,K]]`.
    Conv(Window),
    /// [`Op::Conv`] and [`Op::BatchNormEval`] of its result in one: the bits of the two in f32. In
    /// bf16 one rounding less: the convolution's sum is normalised before it is rounded.
    /// ins: `[x, w, gamma, beta, running_mean, running_var]`, then the convolution's bias where
    /// `bias` says so, then the residual where there is one; outs: `[y]`. Residual and `y` are of
    /// one type.
    ConvBatchNormEval(ConvNorm),
    /// [`Op::Conv`] that also measures what it writes, for [`Op::BatchNormMerge`]. ins: as
    /// [`Op::Conv`]; outs: `[y, moments f32 [1, 1, tiles, 2·K]]`, a row for each
    /// [`MOMENT_PIXELS`] pixels of `y` (the last may have fewer): per channel the mean, then per
    /// channel the squared deviations from it, of the values as `y` holds them.
    ///
    /// All in f32, in this order: `d = v − first`, `first` the tile's first pixel; four sums over
    /// the pixels ≡ 0, 1, 2, 3 (mod 4) in ascending order; `m = ((s₀ + s₁) + (s₂ + s₃))/n`; the
    /// mean is `first + m`; the squares are four sums likewise of `(d − m)²`.
    ConvMoments(Window),
    /// Gradient of [`Op::Conv`] to its input. ins: `[dy, w]`; outs: `[dx]` (accumulates).
    ConvDgrad(Window),
    /// Gradient of [`Op::Conv`] to its weights and bias. ins: `[x, dy]`;
    /// outs: `[dw]` or `[dw, dbias]` (both accumulate).
    ConvWgrad(Window),
    /// Batch norm with batch statistics, then + residual, then ReLU (each optional).
    /// Running buffers move by `momentum` (running variance unbiased), as in PyTorch; the
    /// variance of a single pixel is 0. y = (x − mean)·(gamma·inv_std) + beta, then the rest.
    /// ins: `[x, gamma, beta]` or `[x, gamma, beta, residual]`;
    /// outs: `[y, mean [C], inv_std [C], running_mean [C] in/out, running_var [C] in/out]`.
    /// `y` may be `x` or `residual` in place.
    BatchNorm {
        /// ε.
        eps: f32,
        /// Weight of the new batch in the running buffers.
        momentum: f32,
        /// Apply ReLU last.
        relu: bool,
    },
    /// [`Op::BatchNorm`] whose statistics were taken by [`Op::ConvMoments`]: the tiles' moments are
    /// merged by the formula of Chan et al. (1983) in f64, in a fixed order, so `x` is read once.
    /// ins: `[x, gamma, beta, moments]` or `[x, gamma, beta, moments, residual]`; outs: as
    /// [`Op::BatchNorm`].
    BatchNormMerge {
        /// ε.
        eps: f32,
        /// Weight of the new batch in the running buffers.
        momentum: f32,
        /// Apply ReLU last.
        relu: bool,
    },
    /// Batch norm with running statistics, then + residual, then ReLU.
    /// ins: `[x, gamma, beta, running_mean, running_var]` (+ `residual`); outs: `[y]`,
    /// which may be `x` or `residual` in place.
    BatchNormEval {
        /// ε.
        eps: f32,
        /// Apply ReLU last.
        relu: bool,
    },
    /// Backward of [`Op::BatchNorm`]; the ReLU mask is `y > 0`.
    /// ins: `[dy, x, y, gamma, mean, inv_std]`;
    /// outs: `[dx, dgamma, dbeta]` or `[dx, dgamma, dbeta, dresidual]` (all accumulate).
    /// `dx` or `dresidual` may be `dy` in place (not both, and not when accumulating).
    BatchNormBackward {
        /// Whether a ReLU followed.
        relu: bool,
    },
    /// ReLU alone; here and in batch norm NaN stays NaN. ins: `[x]`; outs: `[y]`, in place allowed.
    Relu,
    /// Backward of [`Op::Relu`]. ins: `[dy, y]`; outs: `[dx]` (accumulates), in place on `dy` allowed
    /// (not both).
    ReluBackward,
    /// Max pooling, square window `size` ≤ 16; padding counts as −∞. The output size (ceil mode
    /// or not) is that of the output view; every window must meet the input. ins: `[x]`; outs:
    /// `[y f32, tap u8]`, `tap` = index `row·size + column` of the first maximal tap in row-major
    /// order; NaN counts as larger than anything.
    MaxPool {
        /// Window side.
        size: usize,
        /// Stride and padding (dilation 1).
        window: Window,
    },
    /// Backward of [`Op::MaxPool`], a gather. ins: `[dy, tap]`; outs: `[dx]` (accumulates).
    MaxPoolBackward {
        /// Window side.
        size: usize,
        /// Stride and padding.
        window: Window,
    },
    /// Mean over H, W. ins: `[x [N,H,W,C]]`; outs: `[y [N,1,1,C]]`.
    GlobalAvgPool,
    /// Backward. ins: `[dy [N,1,1,C]]`; outs: `[dx [N,H,W,C]]` (accumulates).
    GlobalAvgPoolBackward,
    /// Bilinear resize, align_corners = true, to the output's size. ins: `[x]`; outs: `[y]`.
    Resize,
    /// Backward of [`Op::Resize`], a gather in fixed order. ins: `[dy]`; outs: `[dx]` (accumulates).
    ResizeBackward,
    /// Zeroes whole channels of an image with probability p, scales the rest by 1/(1−p).
    /// Its own backward (same stream, same step). Draw of (n, c): word 0 of block `n·C + c`;
    /// dropped where uniform < p. ins: `[x, rng]`; outs: `[y]` (accumulates), in place allowed
    /// (not both).
    Dropout2d {
        /// Drop probability, in [0, 1).
        p: f32,
        /// Random stream.
        stream: u32,
    },
    /// Upsample (align_corners) + softmax + entropy + argmax, never materialising C × H × W.
    /// H = −Σ p·log(p + log_eps). ins: `[logits [B,h,w,C]]`;
    /// outs: `[entropy f32 [B,H,W,1], argmax u8 [B,H,W,1], confidence f32 [B,H,W,1]]`.
    /// Ties of the argmax go to the lower class.
    SoftmaxEntropy {
        /// 0 for the exact entropy; 1e-10 in mode `released`.
        log_eps: f32,
    },
    /// numpy's `percentile` (linear interpolation) of `values` where `label != ignore`: order
    /// statistics around `(n − 1)·q/100`, interpolated in f64, rounded once. NaN sorts last.
    /// ins: `[values f32, label u8, q f32 [k] (percent, 0–100)]`; outs: `[threshold f32 [k]]`;
    /// +∞ when no pixel counts.
    Percentile {
        /// Ignore label.
        ignore: u8,
    },
    /// `label` where `entropy < threshold`, else ignore. A whole batch at once.
    /// ins: `[label u8, entropy f32, threshold f32 [1]]`; outs: `[kept u8]`, in place allowed.
    KeepReliable {
        /// Ignore label.
        ignore: u8,
    },
    /// Upsample (align_corners) + log-softmax + negative log-likelihood. A pixel is valid when
    /// its label is not `ignore` and, with a threshold, p(label) ≤ threshold (OHEM).
    /// ins: `[logits [B,h,w,C], label u8 [B,H,W,1]]` (+ `threshold f32 [1]`);
    /// outs: `[stats f32 [4]]` = {loss, gradient scale per valid pixel, valid pixels, all pixels}.
    /// No valid pixel: loss and scale are 0.
    CrossEntropy {
        /// Ignore label.
        ignore: u8,
        /// Normalisation.
        norm: CeNorm,
    },
    /// Gradient of `weight ·` [`Op::CrossEntropy`] to the low-resolution logits; a gather.
    /// ins: `[logits, label, stats]` (+ `threshold`); outs: `[dlogits]` (accumulates).
    CrossEntropyBackward {
        /// Ignore label.
        ignore: u8,
        /// Weight of this loss in the sum.
        weight: f32,
    },
    /// p(label) per pixel after upsampling, 1 where ignored. ins: `[logits, label]`;
    /// outs: `[p f32 [B,H,W,1]]`.
    TargetProbability {
        /// Ignore label.
        ignore: u8,
    },
    /// OHEM's threshold: max(thresh, the min_kept-th smallest p), all pixels (ignored ones are 1)
    /// taking part; +∞ when fewer than min_kept pixels are valid, or min_kept is 0 (as in the
    /// released code, which then keeps every pixel).
    /// ins: `[p f32, label u8]`; outs: `[threshold f32 [1]]`.
    OhemThreshold {
        /// Ignore label.
        ignore: u8,
        /// Probability above which a pixel is easy.
        thresh: f32,
        /// Pixels kept at least.
        min_kept: usize,
    },
    /// Anchor, positive and negative masks at feature resolution, a bit per class in
    /// `Wd = ⌈C/32⌉` words per pixel. Labels and entropy are sampled by PyTorch's nearest
    /// (`min(⌊i·s⌋, H − 1)`, `s = H/h`, quotient and product in f32); ranks and p(c) come from the softmax of `logits` at h × w, rank
    /// O(c) = #{k: l_k > l_c} + #{k < c: l_k = l_c}.
    /// ins: `[logits [B,h,w,C] (labelled images first), label_l u8 [Bl,H,W,1],
    /// label_u u8 [Bu,H,W,1] (pseudo-labels before thresholding), entropy_u f32 [Bu,H,W,1],
    /// thresholds f32 [3] = {γ, low, high}]`;
    /// outs: `[anchors u32 [B,h,w,Wd], positives u32, negatives u32]`.
    ///
    /// Paper — labelled: y = c, p(c) > δ_p → anchor and positive; y valid, y ≠ c, O(c) < r_l → negative.
    /// Unlabelled: ŷ = c, H < γ, p(c) > δ_p → anchor and positive; H > γ, ŷ valid,
    /// r_l ≤ O(c) < r_h → negative.
    /// Released — rows 1, 2, 3, 5, 6: positives are onehot ∧ low mask; anchors also p(c) > δ_p;
    /// negatives are onehot ∧ high mask ∧ r_l ≤ O(c) < r_h on unlabelled pixels, none on
    /// labelled ones; low mask H ≤ low, high mask H ≥ high; one-hots of image 0 are the union of
    /// the classes of every image of the same tensor (an ignored pixel of another image counts as
    /// class 0), empty where image 0 is ignored; the other images' one-hots are empty. The labelled
    /// and the unlabelled tensor each have an image 0.
    Partition(Partition),
    /// Per class, the ascending list of pixels whose bit is set.
    /// ins: `[bits u32 [B,h,w,Wd]]`; outs: `[list u32 [1,1,C,P], counts u32 [1,1,2,C]]`;
    /// counts row 0: all pixels, row 1: those below `labeled_pixels`. A list's entries past its
    /// count are undefined.
    Compact {
        /// Feature pixels of the labelled images, Bl·h·w.
        labeled_pixels: usize,
    },
    /// Appends the representations of each class's pixels to its ring, in list order; when there
    /// are more than the capacity the last ones stay.
    /// ins: `[rep [B,h,w,D], list, counts]`;
    /// outs: `[bank f32 [1,1,ΣQ,D] in/out, inv_norm f32 [1,1,1,ΣQ] in/out, cursor u32 [1,1,2,C] in/out]`;
    /// cursor row 0: next write slot, row 1: entries held. `inv_norm` = 1/max(‖z‖, 1e-8).
    /// Entry j of class c, oldest first, is slot `(next + Q − held + j) mod Q`.
    BankPush {
        /// Capacity per class, Q_c.
        capacities: Vec<u32>,
    },
    /// Mean representation of each class's pixels, 0 where there are none.
    /// ins: `[rep, list, counts]`; outs: `[prototype f32 [1,1,C,D]]`.
    Prototype,
    /// The contrastive loss. Class c takes part when it has an anchor and its ring an entry.
    /// Anchor m of class c: list entry `below(c·M + m, count)` of stream; its n-th negative: ring
    /// entry (oldest first) `below((c·M + m)·N + n, held)` of stream + 1. Cosine similarity with
    /// norms clamped at 1e-8, divided by τ; loss = Σ_c mean_m(−log softmax_positive) / classes.
    /// Paper: classes = those that took part. Released (rows 4, 13): with v_0 < v_1 < … the
    /// classes that have positives, position i reads anchors and prototype of class *i*, the ring
    /// of class v_i; the divisor is the number of v; zero loss when fewer than two; draws are
    /// keyed by position i; a position without anchors or negatives adds nothing.
    /// ins: `[rep [B,h,w,D], list, anchor counts, positive counts, prototype, bank, inv_norm,
    /// cursor, rng]`; outs: `[stats f32 [4]]` = {loss, gradient scale per anchor
    /// 1/(M·classes), classes, 0}; all 0 when there is no loss.
    InfoNce(InfoNce),
    /// Gradient of `weight ·` [`Op::InfoNce`] to the anchors' representations (prototype and
    /// bank are constants), repeated anchors summed in draw order, classes in ascending order;
    /// 0 elsewhere. A norm clamped at 1e-8 is a constant.
    /// ins: those of `InfoNce`, then `stats`; outs: `[drep]` (accumulates).
    InfoNceBackward(InfoNce, f32),
    /// SGD with momentum as in PyTorch (`v ← μv + (g + wd·p); p ← p − (lr·lr_mult)·v`), then the
    /// EMA teacher `t ← m·t + (1−m)·p` when there is one (copied at m = 0, untouched at m = 1).
    /// ins: `[gradient flat, lr f32 [1], m f32 [1]]`; outs: `[parameter in/out, velocity in/out]`
    /// (+ `teacher in/out`), all flat `[1,1,1,n]`; then, in bf16, a copy of the new parameter and
    /// of the new teacher where there is one (gaps are left alone there too).
    SgdEma {
        /// Momentum μ.
        momentum: f32,
        /// Groups covering the flat vector; must not overlap; gaps (alignment
        /// padding) are left alone in every vector.
        groups: Vec<SgdGroup>,
    },
    /// Upsample + argmax against labels; pixels labelled `ignore` do not count.
    /// ins: `[logits, label]`; outs: `[matrix u32 [1,1,C,C]]` (accumulates), row = truth.
    Confusion {
        /// Ignore label.
        ignore: u8,
    },
    /// Two label maps against each other; a pixel that either ignores does not count.
    /// ins: `[truth u8, prediction u8]`; outs: `[matrix u32 [1,1,C,C]]` (accumulates).
    LabelConfusion {
        /// Ignore label.
        ignore: u8,
    },
    /// Upsample (align_corners) the logits to the window's size and add them, or their softmax,
    /// to the score map at (y, x), mirrored left–right within the window when `flip`; its counts
    /// grow by 1. The window lies inside the map.
    /// ins: `[logits [1,h,w,C], window u32 [4] = {y, x, height, width}]`;
    /// outs: `[scores f32 [1,H,W,C] in/out, counts f32 [1,H,W,1] in/out]`.
    AddScores {
        /// Mirror the columns.
        flip: bool,
        /// Add probabilities instead of logits.
        softmax: bool,
    },
    /// Entropy (log_eps 0), argmax and confidence of accumulated scores / counts; a pixel that no
    /// window covered has count 1.
    /// ins: `[scores, counts]`; outs as [`Op::SoftmaxEntropy`].
    FinishScores {
        /// The scores are probabilities already.
        softmax: bool,
    },
}

/// Work of one call, for plans and rooflines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add counts two).
    pub flops: f64,
    /// Bytes that must move at least: every operand once, what is in/out twice.
    pub bytes: f64,
}

impl Op {
    /// Short name for tables and profiles.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Fill { .. } => "fill",
            Op::Copy => "copy",
            Op::Lerp => "lerp",
            Op::Augment(_) => "augment",
            Op::Mix { .. } => "mix",
            Op::Conv(_) => "conv",
            Op::ConvBatchNormEval(_) => "conv_batch_norm_eval",
            Op::ConvMoments(_) => "conv_moments",
            Op::ConvDgrad(_) => "conv_dgrad",
            Op::ConvWgrad(_) => "conv_wgrad",
            Op::BatchNorm { .. } => "batch_norm",
            Op::BatchNormMerge { .. } => "batch_norm_merge",
            Op::BatchNormEval { .. } => "batch_norm_eval",
            Op::BatchNormBackward { .. } => "batch_norm_backward",
            Op::Relu => "relu",
            Op::ReluBackward => "relu_backward",
            Op::MaxPool { .. } => "max_pool",
            Op::MaxPoolBackward { .. } => "max_pool_backward",
            Op::GlobalAvgPool => "global_avg_pool",
            Op::GlobalAvgPoolBackward => "global_avg_pool_backward",
            Op::Resize => "resize",
            Op::ResizeBackward => "resize_backward",
            Op::Dropout2d { .. } => "dropout2d",
            Op::SoftmaxEntropy { .. } => "softmax_entropy",
            Op::Percentile { .. } => "percentile",
            Op::KeepReliable { .. } => "keep_reliable",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyBackward { .. } => "cross_entropy_backward",
            Op::TargetProbability { .. } => "target_probability",
            Op::OhemThreshold { .. } => "ohem_threshold",
            Op::Partition(_) => "partition",
            Op::Compact { .. } => "compact",
            Op::BankPush { .. } => "memory_bank",
            Op::Prototype => "prototype",
            Op::InfoNce(_) => "info_nce",
            Op::InfoNceBackward(..) => "info_nce_backward",
            Op::SgdEma { .. } => "sgd_ema",
            Op::Confusion { .. } => "confusion",
            Op::LabelConfusion { .. } => "label_confusion",
            Op::AddScores { .. } => "add_scores",
            Op::FinishScores { .. } => "finish_scores",
        }
    }

    /// Whether output `i` may be added to instead of overwritten.
    pub fn can_accumulate(&self, i: usize) -> bool {
        match self {
            Op::ConvDgrad(_)
            | Op::ConvWgrad(_)
            | Op::BatchNormBackward { .. }
            | Op::ReluBackward
            | Op::MaxPoolBackward { .. }
            | Op::GlobalAvgPoolBackward
            | Op::ResizeBackward
            | Op::Dropout2d { .. }
            | Op::CrossEntropyBackward { .. }
            | Op::InfoNceBackward(..)
            | Op::Confusion { .. }
            | Op::LabelConfusion { .. } => true,
            Op::Copy => i == 0,
            _ => false,
        }
    }

    /// (output, input) pairs that may share memory when the input dies here.
    pub fn in_place(&self) -> &'static [(usize, usize)] {
        match self {
            Op::BatchNorm { .. } => &[(0, 0), (0, 3)],
            Op::BatchNormMerge { .. } => &[(0, 0), (0, 4)],
            Op::BatchNormEval { .. } => &[(0, 0), (0, 5)],
            Op::BatchNormBackward { .. } => &[(0, 0), (3, 0)],
            Op::Relu | Op::ReluBackward | Op::Dropout2d { .. } | Op::KeepReliable { .. } => {
                &[(0, 0)]
            }
            _ => &[],
        }
    }

    /// Outputs whose previous contents the operation reads (state).
    pub fn reads_output(&self, i: usize) -> bool {
        match self {
            Op::Lerp => i == 0,
            Op::BatchNorm { .. } | Op::BatchNormMerge { .. } => i >= 3,
            Op::BankPush { .. } | Op::SgdEma { .. } | Op::AddScores { .. } => true,
            _ => false,
        }
    }

    /// FLOPs and least bytes of a call with these operands.
    pub fn cost(&self, ins: &[View], outs: &[View]) -> Cost {
        let size = |v: &View| (v.elements() * v.dtype.bytes()) as f64;
        let mut bytes: f64 = ins.iter().chain(outs).map(size).sum();
        // What is in/out moves both ways; copies in bf16 are only written.
        let in_out = |&(i, v): &(usize, &View)| self.reads_output(i) && v.dtype != DType::BF16;
        let read_too = outs.iter().enumerate().filter(in_out);
        bytes += read_too.map(|(_, v)| size(v)).sum::<f64>();
        let out0 = outs.first().map_or(0.0, |v| v.elements() as f64);
        let in0 = ins.first().map_or(0.0, |v| v.elements() as f64);
        let full_pixels = |labels: &View| (labels.pixels() * ins[0].channels()) as f64;
        let flops = match self {
            Op::Conv(_) => 2.0 * outs[0].pixels() as f64 * ins[1].elements() as f64,
            Op::ConvBatchNormEval(_) => {
                2.0 * outs[0].pixels() as f64 * ins[1].elements() as f64 + 3.0 * out0
            }
            Op::ConvMoments(_) => {
                2.0 * outs[0].pixels() as f64 * ins[1].elements() as f64 + 5.0 * out0
            }
            Op::ConvDgrad(_) => 2.0 * ins[0].pixels() as f64 * ins[1].elements() as f64,
            Op::ConvWgrad(_) => 2.0 * ins[1].pixels() as f64 * outs[0].elements() as f64,
            Op::BatchNorm { .. } => 8.0 * in0,
            Op::BatchNormEval { .. } | Op::BatchNormMerge { .. } => 3.0 * in0,
            Op::BatchNormBackward { .. } => 9.0 * in0,
            Op::MaxPool { size, .. } => out0 * (size * size) as f64,
            Op::GlobalAvgPool | Op::Relu | Op::ReluBackward | Op::Dropout2d { .. } => in0,
            Op::Resize => 7.0 * out0,
            Op::ResizeBackward => 7.0 * in0,
            // 7 for the bilinear weights, then exp, sum and log: counted as 10 a class.
            Op::SoftmaxEntropy { .. } => 17.0 * (outs[0].pixels() * ins[0].channels()) as f64,
            Op::CrossEntropy { .. } | Op::TargetProbability { .. } => 12.0 * full_pixels(&ins[1]),
            Op::CrossEntropyBackward { .. } => 20.0 * full_pixels(&ins[1]),
            Op::Confusion { .. } => 8.0 * full_pixels(&ins[1]),
            Op::Partition(_) => in0 * ins[0].channels() as f64,
            Op::SgdEma { .. } => 7.0 * out0,
            Op::Lerp => 3.0 * out0,
            Op::Prototype => in0,
            Op::InfoNce(a) | Op::InfoNceBackward(a, _) => {
                let pairs = a.capacities.len() * a.anchors * (a.negatives + 1);
                // Only the drawn entries of the bank move, not the whole of it.
                bytes = (pairs * ins[0].channels() * 4) as f64;
                2.0 * (pairs * ins[0].channels()) as f64
            }
            Op::BankPush { .. } => {
                bytes = 2.0 * size(&ins[0]);
                in0
            }
            _ => 0.0,
        };
        Cost { flops, bytes }
    }
}
