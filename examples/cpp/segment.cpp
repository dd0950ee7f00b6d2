/* Several threads on one network, from C++11.
 *
 *   cargo build --release --features capi
 *   c++ -std=c++11 -pthread -Iinclude examples/cpp/segment.cpp -o segment_threads \
 *       -Ltarget/release -lu2pl_engine -Wl,-rpath,$PWD/target/release
 *   ./segment_threads WEIGHTS [THREADS [PICTURES]]
 *
 * Every thread segments pictures of its own through the one handle; in the end the same pictures are
 * segmented as one batch, and the answers compared. `Network` below is all that a program needs to
 * hold a handle safely. */

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "u2pl_engine.h"

// A status other than U2PL_OK, with the message of the thread that got it.
class Error : public std::runtime_error {
 public:
  explicit Error(u2pl_status status) : std::runtime_error(u2pl_last_error()), status(status) {}
  u2pl_status status;
};

void check(u2pl_status status) {
  if (status != U2PL_OK) throw Error(status);
}

// Bytes of red, green and blue, rows from the top.
struct Picture {
  std::size_t height, width;
  std::vector<std::uint8_t> pixels;
};

// What the network says of every pixel.
struct Maps {
  std::vector<std::uint8_t> classes;
  std::vector<float> confidence, entropy;
};

// Owns a handle. Moves, does not copy; `const` functions may be called from any thread.
class Network {
 public:
  Network(const std::string &weights, const u2pl_options &options) {
    check(u2pl_open(weights.c_str(), &options, &handle_));
  }
  Network(Network &&other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Network &operator=(Network &&other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Network(const Network &) = delete;
  Network &operator=(const Network &) = delete;
  ~Network() { u2pl_close(handle_); }

  static u2pl_options defaults() {
    u2pl_options options;
    check(u2pl_options_init(&options));
    return options;
  }

  std::size_t classes() const {
    std::size_t classes = 0;
    check(u2pl_classes(handle_, &classes));
    return classes;
  }

  // Makes `callers` threads' first calls as fast as all others.
  void warm_up(std::size_t callers, const Picture &like) const {
    check(u2pl_warm_up(handle_, callers, 1, like.height, like.width, U2PL_U8));
  }

  // Pictures of one size run as one batch.
  std::vector<Maps> segment(const std::vector<Picture> &pictures) const {
    std::vector<u2pl_image> images;
    std::vector<u2pl_maps> places;
    std::vector<Maps> all(pictures.size());
    for (std::size_t i = 0; i < pictures.size(); ++i) {
      const Picture &picture = pictures[i];
      const std::size_t pixels = picture.height * picture.width;
      all[i].classes.resize(pixels);
      all[i].confidence.resize(pixels);
      all[i].entropy.resize(pixels);
      u2pl_image image = u2pl_image();
      image.struct_size = sizeof image;
      image.data = picture.pixels.data();
      image.sample_count = picture.pixels.size();
      image.sample_type = U2PL_U8;
      image.channels = U2PL_RGB;
      image.height = picture.height;
      image.width = picture.width;
      images.push_back(image);
      u2pl_maps maps = u2pl_maps();
      maps.struct_size = sizeof maps;
      maps.pixels = pixels;
      maps.classes = all[i].classes.data();
      maps.confidence = all[i].confidence.data();
      maps.entropy = all[i].entropy.data();
      places.push_back(maps);
    }
    check(u2pl_segment(handle_, images.data(), images.size(), places.data()));
    return all;
  }

 private:
  u2pl_segmenter *handle_ = nullptr;
};

// Squares on a gradient, other ones for every seed.
Picture pattern(std::size_t seed) {
  Picture picture = {64, 96, {}};
  for (std::size_t y = 0; y < picture.height; ++y) {
    for (std::size_t x = 0; x < picture.width; ++x) {
      const bool inside = (x + 7 * seed) % 40 < 18 && (y + 5 * seed) % 32 < 18;
      picture.pixels.push_back(static_cast<std::uint8_t>(inside ? 30 : 2 * x));
      picture.pixels.push_back(static_cast<std::uint8_t>(inside ? 200 : 3 * y));
      picture.pixels.push_back(static_cast<std::uint8_t>(inside ? 40 + 20 * (seed % 8) : 90));
    }
  }
  return picture;
}

int run(const std::string &weights, std::size_t threads, std::size_t pictures) {
  u2pl_options options = Network::defaults();
  options.callers = threads;
  options.threads = 2;
  const Network network(weights, options);

  std::vector<Picture> all;
  for (std::size_t i = 0; i < threads * pictures; ++i) all.push_back(pattern(i));
  network.warm_up(threads, all[0]);

  std::vector<Maps> found(all.size());
  std::vector<std::exception_ptr> failures(threads);
  std::vector<std::thread> workers;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      try {
        for (std::size_t i = t; i < all.size(); i += threads) {
          found[i] = network.segment({all[i]})[0];
        }
      } catch (...) {
        failures[t] = std::current_exception();
      }
    });
  }
  for (std::thread &worker : workers) worker.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  for (const std::exception_ptr &failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }

  // A batch sums in another order in places: classes may differ where two are all but alike.
  const std::vector<Maps> batch = network.segment(all);
  std::size_t differ = 0, pixels = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t p = 0; p < found[i].classes.size(); ++p, ++pixels) {
      differ += found[i].classes[p] != batch[i].classes[p];
    }
  }
  std::printf("%zu classes; %zu threads, %zu pictures in %.0f ms; as one batch %zu of %zu pixels differ\n",
              network.classes(), threads, all.size(), 1e3 * took.count(), differ, pixels);
  return 1000 * differ <= pixels ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "usage: %s WEIGHTS [THREADS [PICTURES]]\n", argv[0]);
    return 2;
  }
  const unsigned long threads = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 4;
  const unsigned long pictures = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 4;
  if (threads == 0 || threads > 64 || pictures == 0 || pictures > 1000) {
    std::fprintf(stderr, "1 to 64 threads, 1 to 1000 pictures for each\n");
    return 2;
  }
  try {
    return run(argv[1], threads, pictures);
  } catch (const Error &error) {
    std::fprintf(stderr, "status %d: %s\n", static_cast<int>(error.status), error.what());
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
