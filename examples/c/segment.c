/* Segments one picture from C99.
 *
 *   cargo build --release --features capi
 *   cc -std=c99 -Iinclude examples/c/segment.c -o segment \
 *      -Ltarget/release -lu2pl_engine -Wl,-rpath,$PWD/target/release
 *   ./segment WEIGHTS [PICTURE.ppm [CLASSES.pgm]]
 *
 * WEIGHTS is a file of weights or a run folder of `u2pl-engine train`. Without a picture, or with
 * `-`, a pattern is made. CLASSES.pgm gets the class of every pixel. With an installed library the
 * flags come from `pkg-config --cflags --libs u2pl-engine`. */

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "u2pl_engine.h"

/* Bytes of red, green and blue, rows from the top. */
struct picture {
  size_t width;
  size_t height;
  uint8_t *pixels;
};

static int complain(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 0;
}

/* Reads the next number of a PPM header, past comments; at most 1 << 15. */
static int read_number(FILE *file, size_t *number) {
  int c = fgetc(file);
  while (isspace(c) || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = fgetc(file);
    } else {
      c = fgetc(file);
    }
  }
  if (!isdigit(c)) return 0;
  for (*number = 0; isdigit(c); c = fgetc(file)) {
    *number = 10 * *number + (size_t)(c - '0');
    if (*number > 1 << 15) return 0;
  }
  return isspace(c) != 0;
}

/* Reads a binary PPM (P6) of bytes. */
static int read_ppm(const char *path, struct picture *picture) {
  size_t most = 0, bytes;
  FILE *file = fopen(path, "rb");
  if (!file) return complain(path, "cannot be opened");
  if (fgetc(file) != 'P' || fgetc(file) != '6' || !read_number(file, &picture->width) ||
      !read_number(file, &picture->height) || !read_number(file, &most) || most != 255) {
    fclose(file);
    return complain(path, "not a binary PPM of bytes");
  }
  bytes = 3 * picture->width * picture->height;
  picture->pixels = malloc(bytes ? bytes : 1);
  if (!picture->pixels || fread(picture->pixels, 1, bytes, file) != bytes) {
    fclose(file);
    return complain(path, picture->pixels ? "ends too early" : "does not fit the memory");
  }
  fclose(file);
  return 1;
}

/* Makes discs on a gradient. */
static int make_pattern(struct picture *picture) {
  picture->width = 96;
  picture->height = 64;
  picture->pixels = malloc(3 * picture->width * picture->height);
  if (!picture->pixels) return complain("pattern", "no memory");
  for (size_t y = 0; y < picture->height; ++y) {
    for (size_t x = 0; x < picture->width; ++x) {
      uint8_t *pixel = picture->pixels + 3 * (y * picture->width + x);
      int dx = (int)(x % 32) - 16, dy = (int)(y % 32) - 16;
      int inside = dx * dx + dy * dy < 100;
      pixel[0] = inside ? 220 : (uint8_t)(2 * x);
      pixel[1] = inside ? (uint8_t)(3 * y) : 90;
      pixel[2] = inside ? 40 : (uint8_t)(255 - 3 * y);
    }
  }
  return 1;
}

static int write_pgm(const char *path, const struct picture *picture, const uint8_t *classes) {
  size_t pixels = picture->width * picture->height;
  FILE *file = fopen(path, "wb");
  int written;
  if (!file) return complain(path, "cannot be written");
  fprintf(file, "P5\n%zu %zu\n255\n", picture->width, picture->height);
  written = fwrite(classes, 1, pixels, file) == pixels;
  if (fclose(file) != 0 || !written) return complain(path, "cannot be written");
  return 1;
}

/* What the network says of `picture`: printed, and the classes written to `out` unless it is
 * NULL. Every call of the library gives a status; on anything but U2PL_OK this thread's
 * u2pl_last_error() says why. */
static int segment(const u2pl_segmenter *network, const struct picture *picture, const char *out) {
  size_t pixels = picture->width * picture->height, classes = 0, weights = 0, memory = 0;
  size_t count[256] = {0};
  double confidence = 0, entropy = 0;
  int ok = 0;
  u2pl_image image = {0};
  u2pl_maps maps = {0};

  if (u2pl_classes(network, &classes) != U2PL_OK ||
      u2pl_weights_bytes(network, &weights) != U2PL_OK ||
      u2pl_memory_required(network, 1, picture->height, picture->width, U2PL_U8, &memory) !=
          U2PL_OK) {
    return complain("network", u2pl_last_error());
  }
  printf("u2pl-engine %s: %zu classes, %.2f MiB of weights, %.2f MiB for %zu x %zu pixels\n",
         u2pl_version(), classes, weights / 1048576.0, memory / 1048576.0, picture->width,
         picture->height);

  image.struct_size = sizeof image;
  image.data = picture->pixels;
  image.sample_count = 3 * pixels;
  image.sample_type = U2PL_U8;
  image.channels = U2PL_RGB;
  image.height = picture->height;
  image.width = picture->width;
  maps.struct_size = sizeof maps;
  maps.pixels = pixels;
  maps.classes = malloc(pixels);
  maps.confidence = malloc(pixels * sizeof(float));
  maps.entropy = malloc(pixels * sizeof(float));
  if (!maps.classes || !maps.confidence || !maps.entropy) {
    complain("maps", "no memory");
  } else if (u2pl_segment(network, &image, 1, &maps) != U2PL_OK) {
    complain("segment", u2pl_last_error());
  } else {
    for (size_t i = 0; i < pixels; ++i) {
      ++count[maps.classes[i]];
      confidence += maps.confidence[i];
      entropy += maps.entropy[i];
    }
    for (size_t c = 0; c < 256; ++c) {
      if (count[c]) printf("class %zu: %zu pixels\n", c, count[c]);
    }
    printf("mean confidence %.4f, mean entropy %.4f nats\n", confidence / (double)pixels,
           entropy / (double)pixels);
    ok = !out || write_pgm(out, picture, maps.classes);
  }
  free(maps.classes);
  free(maps.confidence);
  free(maps.entropy);
  return ok;
}

int main(int argc, char **argv) {
  struct picture picture = {0, 0, NULL};
  u2pl_segmenter *network = NULL;
  u2pl_options options;
  int ok;

  if (argc < 2 || argc > 4) {
    fprintf(stderr, "usage: %s WEIGHTS [PICTURE.ppm|- [CLASSES.pgm]]\n", argv[0]);
    return 2;
  }
  ok = argc > 2 && strcmp(argv[2], "-") != 0 ? read_ppm(argv[2], &picture)
                                             : make_pattern(&picture);
  if (ok) {
    u2pl_options_init(&options);
    options.callers = 1; /* calls at once */
    options.threads = 2; /* of the CPU device, for all calls together */
    if (u2pl_open(argv[1], &options, &network) != U2PL_OK) {
      ok = complain("open", u2pl_last_error());
    } else {
      ok = segment(network, &picture, argc > 3 ? argv[3] : NULL);
    }
  }
  u2pl_close(network); /* NULL is no error */
  free(picture.pixels);
  return ok ? 0 : 1;
}
