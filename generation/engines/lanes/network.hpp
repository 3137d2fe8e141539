// The network of one architecture put together from layers.hpp: a block of kLanes models, one in
// each SIMD lane, forward, loss and backward; what dense.cpp and twins.cpp train and evaluate.
//
// kernels/places.hpp says where its numbers lie. A training step runs fused, sample by sample:
// forward, loss and backward of all layers, then the optimizer; so that weights, gradients and the
// activations of one sample stay in the core's L2 cache. Linear layers that are larger than that take
// several samples together, between the convolutions of these samples forward and backward. Each
// lane has its own sample order, seed and rates.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "layers.hpp"

namespace networks {

// What a training step needs of one sample. `values` are the image and each layer's output, as the
// next layer sees it; `slopes` those of the activations, `gradients` those of the loss.
struct Sample {
  static constexpr bool variational = false;
  Float values[kEnd.output], slopes[kEnd.output], gradients[kEnd.output];
  Float masks[kEnd.units + 1];
  Int routes[kEnd.routes + 1];
};

// How many samples take the linear layers together: one where the weights stay in the cache anyway.
constexpr int samples_together() {
  const long weights = kWeights - kPlaces[kFirstLinear].weights;
  if (weights * long(sizeof(Float)) <= 128 << 10) return 1;
  return larger(1, smaller(16, int((long(64) << 20) / long(sizeof(Sample)))));
}
constexpr int kTogether = samples_together();

struct Workspace : Sample {
  Float weight_gradients[kWeights];
  float pixels[kSeen];  // padded as the first layer has it
};

struct SampleOfMany : Sample {
  Float* weight_gradients;
  char unused[sizeof(Float) - sizeof(Float*)];
};

struct TogetherWorkspace {
  static constexpr bool variational = false;
  static constexpr long apart = sizeof(SampleOfMany) / sizeof(Float);
  SampleOfMany samples[kTogether];
  Float weight_gradients[kWeights];
  float pixels[kSeen];
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
    return {variances + at.weights, variances + at.biases, squares + at.input,
            normals,                at.normals,            spreads + at.output};
  }
};

template <int i>
using ConvolutionAt = Convolution<kPlaces[i].in, kPlaces[i].out, kLayers[i].kernel,
                                  kPlaces[i].in_side, kLayers[i].pool, kLayers[i].stride>;
template <int i>
using LinearAt = Linear<kPlaces[i].in * kPlaces[i].in_side * kPlaces[i].in_side, kPlaces[i].out>;

// A layer's input: vectors, or the pixels of an image that all lanes see.
struct Values {
  const Float* first;
  Float operator()(int element) const { return first[element]; }
  Float operator[](int element) const { return first[element]; }
};
struct Pixels {
  const float* first;
  Float operator()(int element) const { return all(first[element]); }
  Float operator[](int element) const { return all(first[element]); }
};

template <class Activated>
inline Float slope_of(const Activated& activated) {
  if constexpr (Activated::keeps_slope) return activated.slope;
  else return Activated::slope(activated.value);
}

// The gradient of one of a layer's sums, before activation and dropout, from that of its output.
template <int i, class Work>
inline Float sum_gradient(const Work& work, bool dropout, int element) {
  constexpr Place at = kPlaces[i];
  Float gradient = work.gradients[at.output + element];
  if constexpr (kLayers[i].dropout)
    if (dropout) gradient *= work.masks[unit<i>(element)];
  if constexpr (kKeepsSlope<i>)
    return Activated<i>::backward(gradient, work.slopes[at.output + element]);
  else
    return Activated<i>::backward(gradient,
                                  Activated<i>::slope(work.values[at.output + element]));
}

// From the sums in work.values to what the next layer sees, in place.
template <int i, bool training, class Work>
inline void activate(Work& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  for (int element = 0; element < at.outputs(); element++) {
    const Activated<i> activated(work.values[at.output + element]);
    Float value = activated.value;
    if constexpr (training) {
      if constexpr (kKeepsSlope<i>) work.slopes[at.output + element] = slope_of(activated);
      if constexpr (kLayers[i].dropout)
        if (dropout) value *= work.masks[unit<i>(element)];
      if constexpr (Work::variational) work.squares[at.output + element] = value * value;
    }
    work.values[at.output + element] = value;
  }
}

// Calls body(element of the padded image, element of the image).
template <int i, class Body>
inline void for_each_inner(Body body) {
  constexpr Place at = kPlaces[i];
  constexpr int padding = kLayers[i].padding, row = (at.in_side - 2 * padding) * at.in;
  for (int y = 0; y * row < row * (at.in_side - 2 * padding); y++)
    for (int element = 0; element < row; element++)
      body(((y + padding) * at.in_side + padding) * at.in + element, y * row + element);
}

// The input of the i-th layer from the output before it. Borders are zero from the start.
template <int i>
inline void adapt(Float* values) {
  constexpr Place at = kPlaces[i];
  if constexpr (kAveraged<i>) {
    constexpr int places = (at.input - at.source) / at.in;
    for (int c = 0; c < at.in; c++) {
      Float sum = values[at.source + c];
      for (int place = 1; place < places; place++) sum += values[at.source + place * at.in + c];
      values[at.input + c] = sum / float(places);
    }
  } else if constexpr (kAdapted<i>) {
    for_each_inner<i>([&](int padded, int element) {
      values[at.input + padded] = values[at.source + element];
    });
  }
}

// The way back of `adapt`, for gradients.
template <int i>
inline void adapt_back(Float* gradients) {
  constexpr Place at = kPlaces[i];
  if constexpr (kAveraged<i>) {
    constexpr int places = (at.input - at.source) / at.in;
    for (int element = 0; element < places * at.in; element++)
      gradients[at.source + element] = gradients[at.input + element % at.in] / float(places);
  } else if constexpr (kAdapted<i> && i > 0) {
    for_each_inner<i>([&](int padded, int element) {
      gradients[at.source + element] = gradients[at.input + padded];
    });
  }
}

// The layers from the i-th on, before the `end`-th; `image[pixel]` and `image(pixel)` are the first
// one's input.
template <int i, bool training, int end = kDepth, class Work, class Image>
inline void forward(const Float* weights, Work& work, bool dropout, const Image& image) {
  constexpr Place at = kPlaces[i];
  Float* values = work.values + at.output;
  const auto noise = [&] {
    if constexpr (training && Work::variational) return work.template noise<i>();
    else return NoNoise{};
  }();
  if constexpr (kLayers[i].kernel > 0)
    ConvolutionAt<i>::forward(weights + at.weights, weights + at.biases, image, values,
                              work.routes + at.routes, noise);
  else if constexpr (i == 0)
    LinearAt<i>::forward(weights + at.weights, weights + at.biases, image, values, noise);
  else
    LinearAt<i>::forward(weights + at.weights, weights + at.biases, work.values + at.input, values,
                         noise);
  activate<i, training>(work, dropout);
  if constexpr (i + 1 < kDepth && kAdapted<smaller(i + 1, kDepth - 1)>) {
    adapt<i + 1>(work.values);
    if constexpr (training && Work::variational)
      for (int element = kPlaces[i + 1].input; element < kPlaces[i + 1].output; element++)
        work.squares[element] = work.values[element] * work.values[element];
  }
  if constexpr (i + 1 < end)
    forward<i + 1, training, end>(weights, work, dropout,
                                  Values{work.values + kPlaces[i + 1].input});
}

// The layers from the i-th back to the first: adds to work.weight_gradients. A noisy layer is two:
// that of the means, and that of the variances, whose input are squares.
template <int i, class Work>
inline void backward(const Float* weights, Work& work, bool dropout) {
  constexpr Place at = kPlaces[i];
  Float* weight_gradients = work.weight_gradients + at.weights;
  Float* bias_gradients = work.weight_gradients + at.biases;
  Float* image_gradients = i > 0 ? work.gradients + at.input : nullptr;
  const auto gradient = [&](int element) { return sum_gradient<i>(work, dropout, element); };
  if constexpr (kLayers[i].kernel > 0) {
    if (image_gradients) std::fill(image_gradients, work.gradients + at.output, all(0.0f));
    ConvolutionAt<i>::backward(
        weights + at.weights, weight_gradients, bias_gradients,
        [&](int element) { return work.values[at.input + element]; }, image_gradients, gradient,
        work.routes + at.routes);
  } else {
    for (int o = 0; o < at.out; o++) work.gradients[at.output + o] = gradient(o);
    LinearAt<i>::backward(weights + at.weights, weight_gradients, bias_gradients,
                          work.values + at.input, image_gradients, work.gradients + at.output);
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
  if constexpr (kAdapted<i>) adapt_back<i>(work.gradients);
  if constexpr (i > 0) backward<i - 1>(weights, work, dropout);
}

// Each lane's own image, from [channel][row][column] to [row][column][channel][lane].
inline void load_images(const float* const (&images)[kLanes], Float* values) {
  constexpr int area = kSide * kSide;
  if constexpr (area < kLanes) {
    for (int element = 0; element < kPixels; element++)
      for (int lane = 0; lane < kLanes; lane++)
        values[element][lane] = images[lane][element % kChannels * area + element / kChannels];
    return;
  }
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

// These are passed from Python; kernels/arguments.py and blocks.py have the same fields.

struct Parameters {
  Float values[kWeights];
  Float moments[2][kWeights];  // mean of the gradient or velocity; mean of the gradient's square
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
    __atomic_store_n(&samples, samples + 1, __ATOMIC_RELAXED);
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

// The images of one place of the batch, one for each lane, and their labels.
inline void load_sample(const Samples& samples, int64_t place, Float* values, Int& label) {
  const float* own[kLanes];
  for (int lane = 0; lane < kLanes; lane++) {
    const int64_t index = samples.orders[lane * samples.n + place];
    own[lane] = samples.images + index * kPixels;
    label[lane] = int32_t(samples.labels[index]);
  }
  load_images(own, values);
  if constexpr (kAdapted<0>) adapt<0>(values);
}

// The linear layers from the i-th on, forward and backward for all samples of a part of a batch.
// `share` is that of a sample in the batch's loss.
template <int i, class Work>
inline void linear_together(const Float* weights, Work& work, int count, bool dropout,
                            const Int* labels, float share, Totals& totals) {
  constexpr Place at = kPlaces[i];
  Sample& first = work.samples[0];
  LinearAt<i>::forward_together(weights + at.weights, weights + at.biases, first.values + at.input,
                                first.values + at.output, Work::apart, count);
  for (int s = 0; s < count; s++) activate<i, true>(work.samples[s], dropout);
  if constexpr (i + 1 < kDepth)
    linear_together<i + 1>(weights, work, count, dropout, labels, share, totals);
  else
    for (int s = 0; s < count; s++) {
      Sample& sample = work.samples[s];
      std::copy_n(sample.values + kLogits, kClasses, sample.gradients + kLogits);
      const LogSoftmaxNll<kClasses> result(sample.gradients + kLogits, labels[s], share);
      totals.add(result.loss, result.correct);
    }
  for (int s = 0; s < count; s++)
    for (int o = 0; o < at.out; o++)
      work.samples[s].gradients[at.output + o] = sum_gradient<i>(work.samples[s], dropout, o);
  LinearAt<i>::backward_together(
      weights + at.weights, work.weight_gradients + at.weights, work.weight_gradients + at.biases,
      first.values + at.input, i > 0 ? first.gradients + at.input : nullptr,
      first.gradients + at.output, Work::apart, count);
}

// As the function below, a few samples together.
inline void add_batch(const Float* weights, TogetherWorkspace& work, const Samples& samples,
                      int64_t start, int64_t size, int64_t step, const Rates& rates, bool dropout,
                      Totals& totals) {
  const Dropout masks = make_dropout(rates);
  for (int64_t begun = 0; begun < size; begun += kTogether) {
    const int count = int(std::min<int64_t>(kTogether, size - begun));
    Int labels[kTogether];
    for (int s = 0; s < count; s++) {
      SampleOfMany& sample = work.samples[s];
      sample.weight_gradients = work.weight_gradients;
      load_sample(samples, start + begun + s, sample.values, labels[s]);
      if (dropout) masks.masks(sample.masks, kEnd.units, uint64_t(step), uint32_t(begun + s));
      if constexpr (kFirstLinear > 0)
        forward<0, true, kFirstLinear>(weights, sample, dropout,
                                       Values{sample.values + kPlaces[0].input});
    }
    linear_together<kFirstLinear>(weights, work, count, dropout, labels, 1.0f / float(size),
                                  totals);
    if constexpr (kFirstLinear > 0)
      for (int s = 0; s < count; s++) {
        if constexpr (kAdapted<kFirstLinear>) adapt_back<kFirstLinear>(work.samples[s].gradients);
        backward<kFirstLinear - 1>(weights, work.samples[s], dropout);
      }
  }
}

// The gradients of the mean loss of `size` samples from `start` on, added to work.weight_gradients.
template <class Work>
inline void add_batch(const Float* weights, Work& work, const Samples& samples, int64_t start,
                      int64_t size, int64_t step, const Rates& rates, bool dropout,
                      Totals& totals) {
  const Dropout masks = make_dropout(rates);
  for (int64_t sample = 0; sample < size; sample++) {
    Int label{};
    load_sample(samples, start + sample, work.values, label);
    if (dropout) masks.masks(work.masks, kEnd.units, uint64_t(step), uint32_t(sample));
    if constexpr (Work::variational) {
      work.normals = {make_key(rates), uint64_t(step), uint32_t(sample)};
      for (int pixel = 0; pixel < kSeen; pixel++) {
        const Float value = work.values[kPlaces[0].input + pixel];
        work.squares[kPlaces[0].input + pixel] = value * value;
      }
    }
    forward<0, true>(weights, work, dropout, Values{work.values + kPlaces[0].input});
    std::copy_n(work.values + kLogits, kClasses, work.gradients + kLogits);
    const LogSoftmaxNll<kClasses> result(work.gradients + kLogits, label, 1.0f / float(size));
    totals.add(result.loss, result.correct);
    backward<kDepth - 1>(weights, work, dropout);
  }
}

// What the learning rates are multiplied with in each step of an epoch, and the momentum (of Adam:
// beta1) where that changes too; null pointers where nothing changes.
struct Schedule {
  const double *factors, *momenta;
};

// Calls body(update), where update(parameters, w, gradient) is the optimizer's step of one of them.
// `steps` have been made before, `number` of them in this epoch. Returns false for an unknown
// optimizer.
template <class Body>
[[nodiscard]] inline bool optimize(const Rates& rates, int32_t optimizer, int64_t steps,
                                   const Schedule& schedule, int64_t number, Body body) {
  const double beta1 = schedule.momenta ? schedule.momenta[number] : 0.9, step = double(steps + 1);
  Pace pace{{},
            beta1,
            1 - __builtin_pow(beta1, step),
            __builtin_sqrt(1 - __builtin_pow(0.999, step)),
            bits<Float>(rates.weight_decay),
            schedule.momenta ? all(float(beta1)) : bits<Float>(rates.momentum)};
  for (int lane = 0; lane < kLanes; lane++)
    pace.learning_rates[lane] =
        rates.learning_rate[lane] * (schedule.factors ? schedule.factors[number] : 1);
  return with_optimizer(optimizer, pace, [&](const auto& step) {
    body([&](Parameters& at, int w, Float gradient) {
      step(at.values[w], gradient, at.moments[0][w], at.moments[1][w]);
    });
  });
}

// One image for all lanes, from [channel][row][column] to [row][column][channel], padded.
inline void spread_image(const float* image, float* pixels) {
  constexpr int area = kSide * kSide, border = kLayers[0].padding;
  for (int channel = 0; channel < kChannels; channel++)
    for (int pixel = 0; pixel < area; pixel++) {
      const int seen =
          border ? (pixel / kSide + border) * kSeenSide + pixel % kSide + border : pixel;
      pixels[seen * kChannels + channel] = image[channel * area + pixel];
    }
}

// The linear layers from the i-th on in evaluation, for some samples together.
template <int i>
inline void evaluate_together(const Float* weights, TogetherWorkspace& work, int count) {
  constexpr Place at = kPlaces[i];
  Sample& first = work.samples[0];
  LinearAt<i>::forward_together(weights + at.weights, weights + at.biases, first.values + at.input,
                                first.values + at.output, work.apart, count);
  for (int s = 0; s < count; s++) activate<i, false>(work.samples[s], false);
  if constexpr (i + 1 < kDepth) evaluate_together<i + 1>(weights, work, count);
}

// The totals of n images, a few of them together.
inline void add_evaluated(const Float* weights, TogetherWorkspace& work, const float* images,
                          const int64_t* labels, int64_t n, Totals& totals) {
  for (int64_t begun = 0; begun < n; begun += kTogether) {
    const int count = int(std::min<int64_t>(kTogether, n - begun));
    for (int s = 0; s < count; s++) {
      Sample& sample = work.samples[s];
      spread_image(images + (begun + s) * kPixels, work.pixels);
      if constexpr (kFirstLinear > 0)
        forward<0, false, kFirstLinear>(weights, sample, false, Pixels{work.pixels});
      else
        for (int pixel = 0; pixel < kSeen; pixel++) sample.values[pixel] = all(work.pixels[pixel]);
    }
    evaluate_together<kFirstLinear>(weights, work, count);
    for (int s = 0; s < count; s++) {
      const LogSoftmaxNll<kClasses> result(work.samples[s].values + kLogits,
                                           all(int32_t(labels[begun + s])), 1.0f);
      totals.add(result.loss, result.correct);
    }
  }
}

// The totals of n images, one after another.
inline void add_evaluated(const Float* weights, Workspace& work, const float* images,
                          const int64_t* labels, int64_t n, Totals& totals) {
  for (int64_t sample = 0; sample < n; sample++) {
    spread_image(images + sample * kPixels, work.pixels);
    forward<0, false>(weights, work, false, Pixels{work.pixels});
    const LogSoftmaxNll<kClasses> result(work.values + kLogits,
                                         all(int32_t(labels[sample])), 1.0f);
    totals.add(result.loss, result.correct);
  }
}

using DenseWorkspace = std::conditional_t<kTogether == 1, Workspace, TogetherWorkspace>;

}  // namespace networks

using namespace networks;

extern "C" {

int32_t lanes_count() { return kLanes; }
int32_t weights_count() { return kWeights; }

// n samples, the same for all lanes, without dropout and noise. Returns 0, or 1 where memory ran
// out.
int32_t evaluate(const Float* weights, const float* images, const int64_t* labels, int64_t n,
                 Totals* totals) {
  [[maybe_unused]] const FlushSubnormals flush;
  const auto memory = make_workspace<DenseWorkspace>();
  if (!memory) return 1;
  *totals = Totals{};
  add_evaluated(weights, *memory, images, labels, n, *totals);
  return 0;
}

}  // extern "C"
