// Trains and evaluates one block of kLanes models of one architecture, one model in each SIMD lane.
//
// architecture.hpp, which library.py writes from builders/layout.py, holds the specification: the
// image, the layers, the activation. A training step runs fused, sample by sample: forward, loss
// and backward of all layers, then the optimizer; so that weights, gradients and the activations
// of one sample stay in the core's L2 cache. Each lane has its own sample order, seed and rates.
//
// Measured with g++ 12 on one core of a Xeon with AVX-512 (2 MB L2), batch 10, Adam, tanh, in one
// run with the original's loop (nn.Module, torch.optim, one thread) and torch's sgemm, medians:
//
//                     model-samples a second             times the loop     share of sgemm's
//                     loop     AVX-512    AVX2           AVX-512   AVX2     FLOP/s, AVX-512
//   CNN-s, 1 channel   4,750   142,000    90,000         29.8      18.8     77 %
//   CNN-l, 3 channels  2,800    21,300    12,600          7.5       4.5     75 %
//
// Dropout costs 13 % (the loop: 15 %), evaluation runs at 358,000 and 60,000. Nine tenths of the
// time are the convolutions, at about 85 % of the multiply-adds that the core can make. A further
// factor would need fewer of them (of four gradients under a pooling window three are zero, but
// other ones in each lane), not faster ones.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

#include "layers.hpp"

namespace lanes {

struct Layer {
  int out;
  int kernel;  // 0: linear
  bool pool, activation, dropout;
};

#include "architecture.hpp"

// Where a layer's numbers lie: its tensors among the weights, its input and output among the values
// of one sample, the routes of its pooling, its dropout units.
struct Place {
  int in, in_side, out, side;  // channels and side of the image; side 1 after a linear layer
  int weights, biases, input, output, routes, units;
  constexpr int outputs() const { return out * side * side; }
};

constexpr int kDepth = sizeof(kLayers) / sizeof(kLayers[0]);

constexpr std::array<Place, kDepth + 1> place_layers() {
  std::array<Place, kDepth + 1> places{};
  Place at{kChannels, kSide, 0, 0, 0, 0, 0, kChannels * kSide * kSide, 0, 0};
  for (int i = 0; i < kDepth; i++) {
    const Layer& layer = kLayers[i];
    at.out = layer.out;
    at.side = layer.kernel ? (at.in_side - layer.kernel + 1) / (layer.pool ? 2 : 1) : 1;
    const int window = layer.kernel ? layer.kernel : at.in_side;  // a linear layer sees the image
    at.biases = at.weights + window * window * at.in * at.out;
    places[i] = at;
    at.weights = at.biases + at.out;
    at.routes += layer.pool ? at.outputs() : 0;
    at.units += layer.dropout ? at.outputs() : 0;
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
  Float values[kEnd.output], slopes[kEnd.output], gradients[kEnd.output];
  Float masks[kEnd.units + 1];
  Int routes[kEnd.routes + 1];
  Float weight_gradients[kWeights];
  float pixels[kPixels];
};

template <int i>
constexpr Activation kind = kLayers[i].activation ? kActivation : Activation::none;
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
template <int i, bool training>
inline void activate(Workspace& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  for (int element = 0; element < at.outputs(); element++) {
    const Activated<kind<i>> activated(work.values[at.output + element]);
    Float value = activated.value;
    if constexpr (training) {
      work.slopes[at.output + element] = activated.slope;
      if constexpr (kLayers[i].dropout)
        if (dropout) value *= work.masks[unit<i>(element)];
    }
    work.values[at.output + element] = value;
  }
}

// The layers from the i-th on; `image(pixel)` is the first one's input.
template <int i, bool training, class Image>
inline void forward(const Float* weights, Workspace& work, bool dropout, Image image) {
  constexpr Place at = kPlaces[i];
  Float* values = work.values + at.output;
  if constexpr (kLayers[i].kernel > 0)
    ConvolutionAt<i>::forward(weights + at.weights, weights + at.biases, image, values,
                              work.routes + at.routes);
  else
    LinearAt<i>::forward(weights + at.weights, weights + at.biases, work.values + at.input, values);
  activate<i, training>(work, dropout);
  if constexpr (i + 1 < kDepth)
    forward<i + 1, training>(weights, work, dropout, [&](int element) {
      return work.values[kPlaces[i + 1].input + element];
    });
}

// The layers from the i-th back to the first: adds to work.weight_gradients.
template <int i>
inline void backward(const Float* weights, Workspace& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  Float* weight_gradients = work.weight_gradients + at.weights;
  Float* bias_gradients = work.weight_gradients + at.biases;
  Float* image_gradients = i > 0 ? work.gradients + at.input : nullptr;
  const auto gradient = [&](int element) {  // from behind the dropout to before the activation
    Float g = work.gradients[at.output + element];
    if constexpr (kLayers[i].dropout)
      if (dropout) g *= work.masks[unit<i>(element)];
    return Activated<kind<i>>::backward(g, work.slopes[at.output + element]);
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

std::unique_ptr<Workspace, Free> make_workspace() {
  constexpr std::size_t alignment = 4096;
  constexpr std::size_t size = (sizeof(Workspace) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (memory) std::memset(memory, 0, size);
  return std::unique_ptr<Workspace, Free>(static_cast<Workspace*>(memory));
}

}  // namespace lanes

using namespace lanes;

// These three are passed from Python; __init__.py describes them with the same fields.

struct Block {
  Float weights[kWeights];
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
};

static Dropout make_dropout(const Rates& rates) {
  Dropout dropout{all(0u), all(0u), bits<Word>(rates.dropout_threshold),
                  bits<Float>(rates.dropout_scale)};
  for (int lane = 0; lane < kLanes; lane++) {
    dropout.key0[lane] = uint32_t(rates.seed[lane]);
    dropout.key1[lane] = uint32_t(rates.seed[lane] >> 32);
  }
  return dropout;
}

static void add(Totals* totals, Float loss, Int correct) {
  for (int lane = 0; lane < kLanes; lane++) {
    totals->loss[lane] += loss[lane];
    totals->correct[lane] -= correct[lane];
  }
}

extern "C" {

int32_t lanes_count() { return kLanes; }
int32_t weights_count() { return kWeights; }

// One epoch of n samples; `steps` have been made before. images [.][channel][row][column],
// orders [lane][n]. Returns 0, or 1 where memory ran out.
int32_t train(Block* block, const Rates* rates, int32_t adam, int32_t dropout, const float* images,
              const int64_t* labels, const int32_t* orders, int64_t n, int64_t batch_size,
              int64_t steps, Totals* totals) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace();
  if (!memory) return 1;
  Workspace& work = *memory;
  *totals = Totals{};

  const Dropout masks = make_dropout(*rates);
  const Float weight_decay = bits<Float>(rates->weight_decay);
  const Float momentum = bits<Float>(rates->momentum);

  for (int64_t start = 0; start < n; start += batch_size, steps++) {
    const int64_t size = std::min(batch_size, n - start);
    std::fill_n(work.weight_gradients, kWeights, all(0.0f));
    for (int64_t sample = 0; sample < size; sample++) {
      const float* own[kLanes];
      Int label{};
      for (int lane = 0; lane < kLanes; lane++) {
        const int64_t index = orders[lane * n + start + sample];
        own[lane] = images + index * kPixels;
        label[lane] = int32_t(labels[index]);
      }
      load_images(own, work.values);
      if (dropout) masks.masks(work.masks, kEnd.units, uint64_t(steps), uint32_t(sample));

      forward<0, true>(block->weights, work, dropout,
                       [&](int element) { return work.values[element]; });
      std::copy_n(work.values + kLogits, kClasses, work.gradients + kLogits);
      const LogSoftmaxNll<kClasses> result(work.gradients + kLogits, label, 1.0f / float(size));
      add(totals, result.loss, result.correct);
      backward<kDepth - 1>(block->weights, work, dropout);
    }

    if (adam) {
      const Adam update(rates->learning_rate, weight_decay, steps + 1);
      for (int w = 0; w < kWeights; w++)
        update(block->weights[w], work.weight_gradients[w], block->moments[0][w],
               block->moments[1][w]);
    } else {
      const Sgd update(rates->learning_rate, weight_decay, momentum);
      for (int w = 0; w < kWeights; w++)
        update(block->weights[w], work.weight_gradients[w], block->moments[0][w]);
    }
  }
  return 0;
}

// n samples, the same for all lanes, without dropout. Returns 0, or 1 where memory ran out.
int32_t evaluate(const Block* block, const float* images, const int64_t* labels, int64_t n,
                 Totals* totals) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace();
  if (!memory) return 1;
  Workspace& work = *memory;
  *totals = Totals{};
  for (int64_t sample = 0; sample < n; sample++) {
    constexpr int area = kSide * kSide;
    for (int channel = 0; channel < kChannels; channel++)
      for (int pixel = 0; pixel < area; pixel++)
        work.pixels[pixel * kChannels + channel] =
            images[sample * kPixels + channel * area + pixel];
    forward<0, false>(block->weights, work, false,
                      [&](int element) { return all(work.pixels[element]); });
    const LogSoftmaxNll<kClasses> result(work.values + kLogits,
                                         all(int32_t(labels[sample])), 1.0f);
    add(totals, result.loss, result.correct);
  }
  return 0;
}

// The masks of one sample, result [unit][lane], as training makes them: to be tested. Returns the
// number of units, or 0 where memory ran out.
int32_t dropout_masks(const Rates* rates, uint64_t step, uint32_t sample, float* result) {
  const auto memory = make_workspace();
  if (!memory) return 0;
  make_dropout(*rates).masks(memory->masks, kEnd.units, step, sample);
  std::memcpy(result, memory->masks, kEnd.units * sizeof(Float));
  return kEnd.units;
}

}  // extern "C"
