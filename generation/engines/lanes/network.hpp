// The network of one architecture put together from layers.hpp: a block of kLanes models, one in
// each SIMD lane, forward, loss and backward; what dense.cpp and twins.cpp train and evaluate.
//
// architecture.hpp, which library.py writes from builders/layout.py, holds the specification: the
// image, the layers, the activation. A training step runs fused, sample by sample: forward, loss
// and backward of all layers, then the optimizer; so that weights, gradients and the activations
// of one sample stay in the core's L2 cache. Each lane has its own sample order, seed and rates.

#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "layers.hpp"

namespace lanes {

struct Layer {
  int out;
  int kernel;  // 0: linear
  bool pool, activation, dropout;
};

#include "architecture.hpp"

// Where a layer's numbers lie: its tensors among the weights, its input and output among the values
// of one sample, the routes of its pooling, its dropout units, its normal numbers.
struct Place {
  int in, in_side, out, side;  // channels and side of the image; side 1 after a linear layer
  int weights, biases, input, output, routes, units, normals;
  constexpr int outputs() const { return out * side * side; }
};

constexpr int kDepth = sizeof(kLayers) / sizeof(kLayers[0]);

constexpr std::array<Place, kDepth + 1> place_layers() {
  std::array<Place, kDepth + 1> places{};
  Place at{kChannels, kSide, 0, 0, 0, 0, 0, kChannels * kSide * kSide, 0, 0, 0};
  for (int i = 0; i < kDepth; i++) {
    const Layer& layer = kLayers[i];
    at.out = layer.out;
    const int sums = layer.kernel ? at.in_side - layer.kernel + 1 : 1;  // in a row
    at.side = sums / (layer.pool ? 2 : 1);
    const int window = layer.kernel ? layer.kernel : at.in_side;  // a linear layer sees the image
    at.biases = at.weights + window * window * at.in * at.out;
    places[i] = at;
    at.weights = at.biases + at.out;
    at.routes += layer.pool ? at.outputs() : 0;
    at.units += layer.dropout ? at.outputs() : 0;
    at.normals += sums * sums * at.out;
    at.input = at.output;
    at.output += at.outputs();
    at.in = at.out;
    at.in_side = at.side;
  }
  places[kDepth] = at;  // the ends of everything
  return places;
}

constexpr auto kPlaces = place_layers();
constexpr Place kEnd = kPlaces[kDepth];
constexpr int kWeights = kEnd.weights, kPixels = kChannels * kSide * kSide;
constexpr int kClasses = kLayers[kDepth - 1].out, kLogits = kEnd.input;

// What a training step needs beside the weights. `values` are the image and each layer's output, as
// the next layer sees it; `slopes` those of the activations, `gradients` those of the loss.
struct Workspace {
  static constexpr bool variational = false;
  Float values[kEnd.output], slopes[kEnd.output], gradients[kEnd.output];
  Float masks[kEnd.units + 1];
  Int routes[kEnd.routes + 1];
  Float weight_gradients[kWeights];
  float pixels[kPixels];
};

// Variational dropout: the squares of `values` and the gradients with respect to them; of each
// output the `Noise::spreads`; of each weight the variance of this step and its gradient.
struct VariationalWorkspace : Workspace {
  static constexpr bool variational = true;
  Float squares[kEnd.output], square_gradients[kEnd.output], spreads[kEnd.output];
  Float variances[kWeights], variance_gradients[kWeights];
  Normals normals;

  template <int i>
  Noise noise() {
    constexpr Place at = kPlaces[i];
    static_assert(at.normals % 4 == 0);
    return {variances + at.weights, variances + at.biases, squares + at.input,
            normals,                at.normals,            spreads + at.output};
  }
};

template <int i>
using Activated = std::conditional_t<kLayers[i].activation, Activation, activations::none>;
template <int i>
using ConvolutionAt = Convolution<kPlaces[i].in, kPlaces[i].out, kLayers[i].kernel,
                                  kPlaces[i].in_side, kLayers[i].pool>;
template <int i>
using LinearAt = Linear<kPlaces[i].in * kPlaces[i].in_side * kPlaces[i].in_side, kPlaces[i].out>;

// A dropout unit's number: torch's order of a layer's outputs is channel, row, column.
template <int i>
inline int unit(int element) {
  constexpr Place at = kPlaces[i];
  return at.units + element % at.out * (at.side * at.side) + element / at.out;
}

// From the sums in work.values to what the next layer sees, in place.
template <int i, bool training, class Work>
inline void activate(Work& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  for (int element = 0; element < at.outputs(); element++) {
    const Activated<i> activated(work.values[at.output + element]);
    Float value = activated.value;
    if constexpr (training) {
      work.slopes[at.output + element] = activated.slope;
      if constexpr (kLayers[i].dropout)
        if (dropout) value *= work.masks[unit<i>(element)];
      if constexpr (Work::variational) work.squares[at.output + element] = value * value;
    }
    work.values[at.output + element] = value;
  }
}

// The layers from the i-th on; `image(pixel)` is the first one's input.
template <int i, bool training, class Work, class Image>
inline void forward(const Float* weights, Work& work, bool dropout, Image image) {
  constexpr Place at = kPlaces[i];
  Float* values = work.values + at.output;
  const auto noise = [&] {
    if constexpr (training && Work::variational) return work.template noise<i>();
    else return NoNoise{};
  }();
  if constexpr (kLayers[i].kernel > 0)
    ConvolutionAt<i>::forward(weights + at.weights, weights + at.biases, image, values,
                              work.routes + at.routes, noise);
  else
    LinearAt<i>::forward(weights + at.weights, weights + at.biases, work.values + at.input, values,
                         noise);
  activate<i, training>(work, dropout);
  if constexpr (i + 1 < kDepth)
    forward<i + 1, training>(weights, work, dropout, [&](int element) {
      return work.values[kPlaces[i + 1].input + element];
    });
}

// The layers from the i-th back to the first: adds to work.weight_gradients. A noisy layer is two:
// that of the means, and that of the variances, whose input are squares.
template <int i, class Work>
inline void backward(const Float* weights, Work& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  Float* weight_gradients = work.weight_gradients + at.weights;
  Float* bias_gradients = work.weight_gradients + at.biases;
  Float* image_gradients = i > 0 ? work.gradients + at.input : nullptr;
  const auto gradient = [&](int element) {  // from behind the dropout to before the activation
    Float g = work.gradients[at.output + element];
    if constexpr (kLayers[i].dropout)
      if (dropout) g *= work.masks[unit<i>(element)];
    return Activated<i>::backward(g, work.slopes[at.output + element]);
  };
  if constexpr (kLayers[i].kernel > 0) {
    if (image_gradients) std::fill(image_gradients, work.gradients + at.output, all(0.0f));
    ConvolutionAt<i>::backward(
        weights + at.weights, weight_gradients, bias_gradients,
        [&](int element) { return work.values[at.input + element]; }, image_gradients, gradient,
        work.routes + at.routes);
  } else {
    for (int o = 0; o < at.out; o++) work.gradients[at.output + o] = gradient(o);
    LinearAt<i>::backward(weights + at.weights, weight_gradients, bias_gradients,
                          work.values + at.input, work.gradients + at.input,
                          work.gradients + at.output);
  }
  if constexpr (Work::variational) {
    Float* square_gradients = i > 0 ? work.square_gradients + at.input : nullptr;
    weight_gradients = work.variance_gradients + at.weights;
    bias_gradients = work.variance_gradients + at.biases;
    if constexpr (kLayers[i].kernel > 0) {
      if (square_gradients)
        std::fill(square_gradients, work.square_gradients + at.output, all(0.0f));
      ConvolutionAt<i>::backward(
          work.variances + at.weights, weight_gradients, bias_gradients,
          [&](int element) { return work.squares[at.input + element]; }, square_gradients,
          [&](int element) { return gradient(element) * work.spreads[at.output + element]; },
          work.routes + at.routes);
    } else {
      for (int o = 0; o < at.out; o++)
        work.square_gradients[at.output + o] =
            work.gradients[at.output + o] * work.spreads[at.output + o];
      LinearAt<i>::backward(work.variances + at.weights, weight_gradients, bias_gradients,
                            work.squares + at.input, square_gradients,
                            work.square_gradients + at.output);
    }
    if constexpr (i > 0)
      for (int element = at.input; element < at.output; element++)
        work.gradients[element] = fma(work.values[element] + work.values[element],
                                      work.square_gradients[element], work.gradients[element]);
  }
  if constexpr (i > 0) backward<i - 1>(weights, work, dropout);
}

// Each lane's own image, from [channel][row][column] to [row][column][channel][lane].
inline void load_images(const float* const (&images)[kLanes], Float* values) {
  constexpr int area = kSide * kSide;
  for (int channel = 0; channel < kChannels; channel++)
    for (int pixel = 0; pixel < area; pixel += kLanes) {
      const int start = smaller(pixel, area - kLanes);  // the last ones overlap
      Float rows[kLanes];
      for (int lane = 0; lane < kLanes; lane++)
        std::memcpy(&rows[lane], images[lane] + channel * area + start, sizeof(Float));
      transpose(rows);
#pragma GCC unroll 16
      for (int p = 0; p < kLanes; p++) values[(start + p) * kChannels + channel] = rows[p];
    }
}

// For the lifetime of the object the processor takes numbers below 1.2e-38 as zero. torch keeps
// them, at about 150 cycles for each operation on x86; here one lane (a diverged sigmoid) would
// slow its whole block to a third, to move a weight by less than 1e-30.
struct FlushSubnormals {
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(before | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before); }
#endif
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <class Work>
std::unique_ptr<Work, Free> make_workspace() {
  constexpr std::size_t alignment = 4096;
  constexpr std::size_t size = (sizeof(Work) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (memory) std::memset(memory, 0, size);
  return std::unique_ptr<Work, Free>(static_cast<Work*>(memory));
}

// These are passed from Python; blocks.py describes them with the same fields.

struct Parameters {
  Float values[kWeights];
  Float moments[2][kWeights];  // Adam: of the gradient and its square; SGD: velocity, unused
};

struct Rates {
  double learning_rate[kLanes];
  uint64_t seed[kLanes];
  float weight_decay[kLanes], momentum[kLanes];
  uint32_t dropout_threshold[kLanes];  // floor(rate * 2^32)
  float dropout_scale[kLanes];         // 1 / (1 - rate)
};

struct Totals {
  double loss[kLanes];
  int64_t correct[kLanes];
  int64_t samples;  // seen so far in this epoch, for whoever watches from another thread

  void add(Float sample_loss, Int sample_correct) {
    for (int lane = 0; lane < kLanes; lane++) {
      loss[lane] += sample_loss[lane];
      correct[lane] -= sample_correct[lane];
    }
  }
};

// The training images [.][channel][row][column] and which of them each lane sees, [lane][n].
struct Samples {
  const float* images;
  const int64_t* labels;
  const int32_t* orders;
  int64_t n;
};

inline Key make_key(const Rates& rates) {
  Key key{};
  for (int lane = 0; lane < kLanes; lane++) {
    key.low[lane] = uint32_t(rates.seed[lane]);
    key.high[lane] = uint32_t(rates.seed[lane] >> 32);
  }
  return key;
}

inline Dropout make_dropout(const Rates& rates) {
  return {make_key(rates), bits<Word>(rates.dropout_threshold), bits<Float>(rates.dropout_scale)};
}

// The gradients of the mean loss of `size` samples from `start` on, added to work.weight_gradients.
template <class Work>
inline void add_batch(const Float* weights, Work& work, const Samples& samples, int64_t start,
                      int64_t size, int64_t step, const Rates& rates, bool dropout,
                      Totals& totals) {
  const Dropout masks = make_dropout(rates);
  for (int64_t sample = 0; sample < size; sample++) {
    const float* own[kLanes];
    Int label{};
    for (int lane = 0; lane < kLanes; lane++) {
      const int64_t index = samples.orders[lane * samples.n + start + sample];
      own[lane] = samples.images + index * kPixels;
      label[lane] = int32_t(samples.labels[index]);
    }
    load_images(own, work.values);
    if (dropout) masks.masks(work.masks, kEnd.units, uint64_t(step), uint32_t(sample));
    if constexpr (Work::variational) {
      work.normals = {make_key(rates), uint64_t(step), uint32_t(sample)};
      for (int pixel = 0; pixel < kPixels; pixel++)
        work.squares[pixel] = work.values[pixel] * work.values[pixel];
    }
    forward<0, true>(weights, work, dropout, [&](int element) { return work.values[element]; });
    std::copy_n(work.values + kLogits, kClasses, work.gradients + kLogits);
    const LogSoftmaxNll<kClasses> result(work.gradients + kLogits, label, 1.0f / float(size));
    totals.add(result.loss, result.correct);
    backward<kDepth - 1>(weights, work, dropout);
  }
  __atomic_store_n(&totals.samples, start + size, __ATOMIC_RELAXED);
}

// Calls body(update), where update(parameters, w, gradient) is the optimizer's step of one of them;
// `steps` have been made before.
template <class Body>
inline void optimize(const Rates& rates, bool adam, int64_t steps, Body body) {
  const Float weight_decay = bits<Float>(rates.weight_decay);
  if (adam) {
    const Adam step(rates.learning_rate, weight_decay, steps + 1);
    body([&](Parameters& at, int w, Float gradient) {
      step(at.values[w], gradient, at.moments[0][w], at.moments[1][w]);
    });
  } else {
    const Sgd step(rates.learning_rate, weight_decay, bits<Float>(rates.momentum));
    body([&](Parameters& at, int w, Float gradient) {
      step(at.values[w], gradient, at.moments[0][w]);
    });
  }
}

}  // namespace lanes

using namespace lanes;

extern "C" {

int32_t lanes_count() { return kLanes; }
int32_t weights_count() { return kWeights; }

// n samples, the same for all lanes, without dropout and noise. Returns 0, or 1 where memory ran
// out.
int32_t evaluate(const Float* weights, const float* images, const int64_t* labels, int64_t n,
                 Totals* totals) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace<Workspace>();
  if (!memory) return 1;
  Workspace& work = *memory;
  *totals = Totals{};
  for (int64_t sample = 0; sample < n; sample++) {
    constexpr int area = kSide * kSide;
    for (int channel = 0; channel < kChannels; channel++)
      for (int pixel = 0; pixel < area; pixel++)
        work.pixels[pixel * kChannels + channel] =
            images[sample * kPixels + channel * area + pixel];
    forward<0, false>(weights, work, false,
                      [&](int element) { return all(work.pixels[element]); });
    const LogSoftmaxNll<kClasses> result(work.values + kLogits,
                                         all(int32_t(labels[sample])), 1.0f);
    totals->add(result.loss, result.correct);
    __atomic_store_n(&totals->samples, sample + 1, __ATOMIC_RELAXED);
  }
  return 0;
}

}  // extern "C"
