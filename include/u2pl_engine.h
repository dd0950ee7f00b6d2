/* u2pl-engine: semantic segmentation in someone else's program.
 *
 * Made by cbindgen from src/ffi/capi; do not edit.
 *
 * Every function that returns a u2pl_status may be called from any thread at any time,
 * returns U2PL_OK or says with u2pl_last_error() in one line what was wrong, and leaves
 * every handle usable. Memory that is passed stays the caller's and is not touched
 * after the call, except on a GPU as u2pl_segment_device says. Link with libu2pl_engine (pkg-config --libs u2pl-engine). */

#ifndef U2PL_ENGINE_H
#define U2PL_ENGINE_H

#include <stddef.h>
#include <stdint.h>

// Samples of one byte, 0 to 255.
#define U2PL_U8 0

// Samples of four bytes, IEEE floats from 0 to 1 (the byte over 255).
#define U2PL_F32 1

// Red, green, blue.
#define U2PL_RGB 0

// Blue, green, red.
#define U2PL_BGR 1

// Red, green, blue and one more that is not read.
#define U2PL_RGBA 2

// Blue, green, red and one more that is not read.
#define U2PL_BGRA 3

// Grey.
#define U2PL_GRAY 4

// What became of a call.
typedef enum u2pl_status {
  // Done.
  U2PL_OK = 0,
  // An argument, a file or an image that the caller can mend.
  U2PL_ERROR_INPUT = 1,
  // A handle that was closed, or never was one.
  U2PL_ERROR_HANDLE = 2,
  // The operating system refused a file.
  U2PL_ERROR_IO = 3,
  // As many calls run on the segmenter as it has callers.
  U2PL_ERROR_BUSY = 4,
  // More memory is needed than there is: tiles need less.
  U2PL_ERROR_MEMORY = 5,
  // The device failed.
  U2PL_ERROR_DEVICE = 6,
  // A bug of the engine.
  U2PL_ERROR_INTERNAL = 7,
  // The network gives the image scores that are no finite numbers: its weights diverged, or the
  // image holds such numbers. Nothing was written.
  U2PL_ERROR_NOT_FINITE = 8,
} u2pl_status;

// A loaded network. Any number of threads may use one at once.
typedef struct u2pl_segmenter u2pl_segmenter;

// How `u2pl_open` opens a segmenter. Fill it with `u2pl_options_init`, then change what should be
// otherwise; a NULL string is its default.
typedef struct u2pl_options {
  // Size of this structure, which is its version: `u2pl_options_init` sets it.
  size_t struct_size;
  // `cpu` (default), `cuda`, `cuda:N`, or `simt` where the library has it.
  const char *device;
  // `fp32` (default), `bf16`, or on a GPU `tf32`.
  const char *precision;
  // Threads of the CPU device; 0: one for each core.
  size_t threads;
  // Not 0: the student instead of the teacher of a checkpoint that holds both.
  uint32_t student;
  // Not 0: look at the mirrored image, too.
  uint32_t flip;
  // Configuration (YAML); NULL: the one saved with the weights.
  const char *config;
  // Factors of the sizes at which an image is looked at; NULL: 1 alone.
  const float *scales;
  // How many.
  size_t scale_count;
  // Longest side of a tile that larger images are cut into, pixels; 0: never cut.
  size_t tile;
  // Least overlap of tiles, pixels; 0: a quarter of a tile.
  size_t tile_overlap;
  // Calls that may run at once.
  size_t callers;
  // Sizes of images that each caller keeps programs for.
  size_t shapes;
  // Not 0: use a GPU's kernels without checking them against the CPU first, which otherwise takes
  // seconds once for each GPU, driver and version of this library. What such a check says goes to
  // standard error.
  uint32_t no_check;
} u2pl_options;

// An image, read during the call alone.
typedef struct u2pl_image {
  // `sizeof(u2pl_image)`.
  size_t struct_size;
  // The first sample of the first row.
  const void *data;
  // Samples that may be read from there.
  size_t sample_count;
  // `U2PL_U8` or `U2PL_F32`.
  uint32_t sample_type;
  // `U2PL_RGB` and so on.
  uint32_t channels;
  // Rows.
  size_t height;
  // Columns.
  size_t width;
  // Samples to the next row. All three strides 0: no gaps, channels side by side.
  size_t row_stride;
  // Samples to the next column.
  size_t pixel_stride;
  // Samples to the next channel.
  size_t channel_stride;
} u2pl_image;

// Where the maps of an image go: the caller's memory, rows from the top, no gaps, apart from each
// other and from the image. What is NULL is not wanted.
typedef struct u2pl_maps {
  // `sizeof(u2pl_maps)`.
  size_t struct_size;
  // Pixels that there is room for, at least as many as the image has.
  size_t pixels;
  // The most probable class of each pixel.
  uint8_t *classes;
  // Its probability.
  float *confidence;
  // Entropy of the probabilities of all classes, nats.
  float *entropy;
  // Probability of each class, `u2pl_classes` of them a pixel, side by side. Asking for it runs
  // the network a second time.
  float *probabilities;
} u2pl_maps;

// A batch of images in device memory.
typedef struct u2pl_device_image {
  // `sizeof(u2pl_device_image)`.
  size_t struct_size;
  // Address of the first sample: a `CUdeviceptr`, or with the devices `cpu` and `simt` an address
  // of the host's.
  uint64_t data;
  // `U2PL_U8` or `U2PL_F32`.
  uint32_t sample_type;
  // `U2PL_RGB` and so on.
  uint32_t channels;
  // Images.
  size_t images;
  // Rows.
  size_t height;
  // Columns.
  size_t width;
  // Samples to the next image. All four strides 0: no gaps, channels side by side.
  size_t image_stride;
  // Samples to the next row.
  size_t row_stride;
  // Samples to the next column.
  size_t pixel_stride;
  // Samples to the next channel.
  size_t channel_stride;
} u2pl_device_image;

// Where the maps of a batch go, image after image without gaps: addresses of the same kind of memory
// as the image's. What is 0 is not wanted.
typedef struct u2pl_device_maps {
  // `sizeof(u2pl_device_maps)`.
  size_t struct_size;
  // The most probable class of each pixel, a byte.
  uint64_t classes;
  // Its probability, a float.
  uint64_t confidence;
  // Entropy of the probabilities of all classes, nats, a float.
  uint64_t entropy;
} u2pl_device_maps;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What was wrong with this thread's last call that failed, one line of UTF-8 (several when several
// things were wrong); empty when none did. Valid until the thread's next call.
const char *u2pl_last_error(void);

// Loads the weights in `path`, a file or a run folder, with `options` (NULL: the defaults), and
// sets `*out` to a handle, which the caller closes with `u2pl_close`. On failure `*out` is NULL.
enum u2pl_status u2pl_open(const char *path,
                           const struct u2pl_options *options,
                           struct u2pl_segmenter **out);

// Closes a handle. Calls of other threads that use it end first or fail with
// `U2PL_ERROR_HANDLE`; the last of them frees the network. NULL is no error.
enum u2pl_status u2pl_close(struct u2pl_segmenter *segmenter);

// Version of the library, `MAJOR.MINOR.PATCH`.
const char *u2pl_version(void);

// Fills `options` with the defaults: the teacher, on the CPU in fp32, every image once and whole.
enum u2pl_status u2pl_options_init(struct u2pl_options *options);

// Segments `count` images; those of one size and type run as one batch. Nothing is written unless
// all succeed.
enum u2pl_status u2pl_segment(const struct u2pl_segmenter *segmenter,
                              const struct u2pl_image *images,
                              size_t count,
                              const struct u2pl_maps *maps);

// Classes of the network.
enum u2pl_status u2pl_classes(const struct u2pl_segmenter *segmenter, size_t *out);

// Bytes of device memory that the weights take, once for all callers.
enum u2pl_status u2pl_weights_bytes(const struct u2pl_segmenter *segmenter, size_t *out);

// Colours of the 256 class indices, RGB: 768 bytes.
enum u2pl_status u2pl_palette(const struct u2pl_segmenter *segmenter, uint8_t *out);

// Bytes of device memory that one caller takes for a batch of `images` images, the weights aside.
// Where probabilities are asked for, about 4 · classes + 14 more for each pixel of one image.
enum u2pl_status u2pl_memory_required(const struct u2pl_segmenter *segmenter,
                                      size_t images,
                                      size_t height,
                                      size_t width,
                                      uint32_t sample_type,
                                      size_t *out);

// Makes `callers` callers ready for batches of `images` images: afterwards as many threads segment
// such batches without planning or allocating on the device.
enum u2pl_status u2pl_warm_up(const struct u2pl_segmenter *segmenter,
                              size_t callers,
                              size_t images,
                              size_t height,
                              size_t width,
                              uint32_t sample_type);

// As `u2pl_open`, on a CUDA context (a `CUcontext`) and a stream of it (a `CUstream`; NULL is the
// legacy default stream) that the caller keeps: the engine queues its work there, destroys neither,
// and leaves every thread the context that was current. `options->device` must be NULL. Both must
// live until `u2pl_close` has returned and the tensors of `u2pl_segment_dlpack` are gone.
enum u2pl_status u2pl_open_on_stream(const char *path,
                                     const struct u2pl_options *options,
                                     void *context,
                                     void *stream,
                                     struct u2pl_segmenter **out);

// Segments a batch that lies in device memory into maps that stay there: nothing is copied through
// the host. On a GPU the work is queued on the segmenter's stream (that of `u2pl_open_on_stream`,
// or one of the engine's own) and, for a shape that was warmed up, not waited for: the memory must
// stay allocated until the stream has passed the call, and is read and written in the stream's
// order. On devices of the host the work is over when the call returns. Pixels whose scores are no
// finite numbers are no error here: their entropy or confidence is NaN.
enum u2pl_status u2pl_segment_device(const struct u2pl_segmenter *segmenter,
                                     const struct u2pl_device_image *image,
                                     const struct u2pl_device_maps *maps);

// Waits until the segmenter's device has done what was queued on its stream.
enum u2pl_status u2pl_wait(const struct u2pl_segmenter *segmenter);

// Segments the image, or the batch of them, in a `DLManagedTensor` of u8 (0 to 255) or f32 (0 to 1):
// `[H, W, C]` or `[N, H, W, C]`, with `channels_first` other than 0 `[C, H, W]` or `[N, C, H, W]`,
// in memory of the segmenter's device. It stays the caller's.
//
// Each of the last three that is not NULL gets a new `DLManagedTensor *` of `[N, H, W]` in memory of
// the same device: the classes (u8), their probability and the entropy (f32). The caller calls its
// deleter, before or after `u2pl_close`; on failure they are NULL. What `u2pl_segment_device` says of
// streams holds here, too; memory for the maps is allocated, which may wait for the device.
enum u2pl_status u2pl_segment_dlpack(const struct u2pl_segmenter *segmenter,
                                     const void *image,
                                     uint32_t channels,
                                     uint32_t channels_first,
                                     void **classes,
                                     void **confidence,
                                     void **entropy);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* U2PL_ENGINE_H */
