// Trains and evaluates small networks on a GPU: one block of threads for each model, which stays with
// its model for a whole epoch. Weights, gradients and what a few samples need lie in shared memory
// where they fit (`plan_memory`), in global memory where they do not; the optimizer's moments lie in
// global memory, which a step reads once.
//
// Each phase of a step (a layer forward, its weight gradients, the gradients of its input, ...) is a
// number of independent items that the threads share; between phases they wait for each other. An
// item is a small tile of sums in registers. Each sum is made by one thread, and takes its terms in
// the order of the lane kernel (lanes/layers.hpp). So a model's bits depend on itself alone: not on
// the number of threads, of samples in memory or of models, nor on the GPU; on a processor this file
// gives the bits of the lanes.
//
// The gradient of a sum takes the place of the output that it belongs to, as soon as that is no longer
// needed. A sample of CNN-s takes 17 kB, its weights and their gradients 20 kB.

#include "scalars.hpp"

#include "places.hpp"

namespace networks {

constexpr int kThreads = THREADS;  // of a block
constexpr int kSliceImages = 512;  // that a block evaluates
constexpr int kMostTogether = 32;  // samples in memory

constexpr int round_up(int multiple, int a) { return (a + multiple - 1) / multiple * multiple; }
constexpr int ceil_divide(int whole, int part) { return (whole + part - 1) / part; }
constexpr int alignment(int a) { return a % 4 == 0 ? 4 : a % 2 == 0 ? 2 : 1; }

// As kPlaces, with the tensors at multiples of four numbers.
constexpr Places align_tensors() {
  Places places = kPlaces;
  int next = 0;
  for (int i = 0; i < kDepth; i++) {
    Place& at = places.at[i];
    const int weights = at.biases - at.weights;
    at.weights = next;
    at.biases = next + round_up(4, weights);
    next = at.biases + round_up(4, at.out);
  }
  places.at[kDepth].weights = next;
  return places;
}
constexpr Places kAligned = align_tensors();
constexpr int kSpan = kAligned[kDepth].weights;

// How many slopes are kept of the layers before the i-th.
template <int i>
constexpr int kSlopesBefore = kSlopesBefore<i - 1> + (kKeepsSlope<i - 1> ? kPlaces[i - 1].outputs() : 0);
template <>
constexpr int kSlopesBefore<0> = 0;

// The most outputs of a pooled layer, each channel's rounded up to a multiple of four; and the most
// pixels of a pooled layer's input in one channel.
constexpr int most_pooled() {
  int most = 0;
  for (int i = 0; i < kDepth; i++)
    if (kLayers[i].pool)
      most = larger(most, kPlaces[i].out * round_up(4, kPlaces[i].side * kPlaces[i].side));
  return most;
}
constexpr int most_patches() {
  int most = 0;
  for (int i = 0; i < kDepth; i++)
    if (kLayers[i].pool) most = larger(most, kPlaces[i].in_side * kPlaces[i].in_side);
  return most;
}
using Patch = typename Either<(most_patches() <= 65536)>::template type<uint16_t, uint32_t>;

// What a step needs of one sample.
struct alignas(16) SampleData {
  // The image and each layer's output, as the next layer sees it; later the gradients of their sums.
  float values[round_up(4, kEnd.output)];
  float slopes[round_up(4, kSlopesBefore<kDepth>) + 4];  // of activations, where they are kept
  // The gradients of a pooled layer in the order in which the weights' gradients take them, and the
  // pixel at which the patch of each begins.
  float sorted[most_pooled() + 4];
  Patch patches[most_pooled() + 4];
  uint8_t routes[kEnd.routes + 1];  // from which place of its window a pooled output came
  uint8_t kept[kEnd.units + 1];     // whether dropout keeps a unit
};
// The same number in neighbouring samples lies four banks of shared memory apart.
struct Sample : SampleData {
  float unused[32 + 4 - sizeof(SampleData) / 4 % 32];
};
static_assert(sizeof(Sample) / 4 % 32 == 4, "of 32 banks");

struct alignas(16) Weights {
  float values[kSpan], gradients[kSpan];
};

struct alignas(16) Results {
  int32_t labels[kMostTogether], correct[kMostTogether];
  float losses[kMostTogether];
};

// What lies in shared memory, and how many samples are worked on together. Two blocks on a
// multiprocessor are better than one with more samples, as one works while the other waits.
struct Plan {
  bool weights, samples;
  int together;
};

constexpr Plan plan_memory() {
  constexpr int64_t whole = SHARED_BYTES, half = (whole + 1024) / 2 - 1024;
  constexpr int64_t results = sizeof(Results), sample = sizeof(Sample);
  struct Choice {
    bool weights;
    int64_t bytes;
    int least;  // samples
  };
  constexpr Choice choices[] = {{true, half, 4},   {true, whole, 4}, {false, half, 4},
                             {false, whole, 4}, {true, whole, 1}, {false, whole, 1}};
  for (const Choice& choice : choices) {
    const int64_t room = choice.bytes - results - (choice.weights ? sizeof(Weights) : 0);
    if (room >= choice.least * sample)
      return {choice.weights, true, smaller(kMostTogether, int(room / sample))};
  }
  return {whole >= results + int64_t(sizeof(Weights)), false, 8};
}
constexpr Plan kPlan = plan_memory();

constexpr int64_t kSampleBytes = kPlan.together * int64_t(sizeof(Sample));
constexpr int64_t kSharedBytes = int64_t(sizeof(Results)) + (kPlan.weights ? sizeof(Weights) : 0) +
                                 (kPlan.samples ? kSampleBytes : 0);
constexpr int64_t kScratchBytes =  // of global memory, for each block
    (kPlan.weights ? 0 : sizeof(float) * kSpan) + (kPlan.samples ? 0 : kSampleBytes);
static_assert(kSharedBytes <= SHARED_BYTES, "the plan fits");
// Blocks that fit a multiprocessor's shared memory; the compiler limits registers accordingly.
constexpr int kBlocks = 2 * (kSharedBytes + 1024) <= SHARED_BYTES + 1024 ? 2 : 1;

// These are passed from Python, which has the same fields: Rates in kernels/arguments.py, Arguments in
// library.py, Totals and Step in population.py.

struct Rates {
  double learning_rate;
  uint64_t seed;
  float weight_decay, momentum;
  uint32_t dropout_threshold;  // floor(rate * 2^32)
  float dropout_scale;         // 1 / (1 - rate)
};

// What is the same for all models in one step.
struct Step {
  double factor, momentum;  // of the learning rate; in place of the model's own, of Adam its beta1
  double mean_correction, root_correction;
};

struct Totals {
  double loss;
  int64_t correct;
};

struct Arguments {
  float* parameters;     // [model][values, first moment, second moment][kSpan]
  const Rates* rates;    // [model]
  const float* images;   // [.][channel][row][column]
  const int32_t* labels;
  const int32_t* orders;  // [model][n]; of an evaluation null
  const Step* steps;
  Totals* totals;  // [model]; of an evaluation [model][slice], the loss in the first one
  unsigned char* scratch;
  float* losses;  // [model][n], of an evaluation
  int64_t n, batch_size;
  int64_t before;                   // steps of earlier epochs
  int32_t optimizer;                // its number in kernels/arguments.py
  int32_t dropout;                  // whether there is any
  int32_t momenta;                  // whether those of the steps replace the models' own
  int32_t models;                   // of the population
  int32_t first_model, first_slice;  // of this launch
};

// What one block works with.
struct Block {
  float *weights, *gradients;
  Sample* samples;
  Results& results;
  int count;  // samples at present
  bool dropout;
  float scale;
};

// Calls body(item) for each item that is this thread's.
template <class Body>
inline void share(int items, Body body) {
  for (int item = threadIdx.x; item < items; item += kThreads) body(item);
}

// The number of columns of one item, where `whole` columns are cut for each of `rows` rows: at most
// `most`, and all items about equally wide. Items are narrower where there would otherwise be work for
// less than three quarters of the threads.
constexpr int width_of(int rows, int whole, int most) {
  int width = ceil_divide(whole, ceil_divide(whole, most));
  while (width > 1 && 4 * rows * ceil_divide(whole, width) < 3 * kThreads)
    width = ceil_divide(width, 2);
  return width;
}

// What becomes of a layer's sum: the output, as the next layer sees it.
template <int i, bool training>
inline void set_output(const Block& block, Sample& sample, int element, float sum) {
  static constexpr Place at = kPlaces[i];
  const Activated<i> activated(sum);
  float value = activated.value;
  if constexpr (training) {
    if constexpr (kKeepsSlope<i>) {
      if constexpr (Activated<i>::keeps_slope)
        sample.slopes[kSlopesBefore<i> + element] = activated.slope;
      else
        sample.slopes[kSlopesBefore<i> + element] = Activated<i>::slope(value);
    }
    if constexpr (kLayers[i].dropout)
      if (block.dropout) value *= sample.kept[unit<i>(element)] ? block.scale : 0.0f;
  }
  sample.values[at.output + element] = value;
}

// The way back: from the gradient of an output to that of its sum, which takes its place.
template <int i>
inline void set_sum_gradient(const Block& block, Sample& sample, int element, float gradient) {
  static constexpr Place at = kPlaces[i];
  if constexpr (kLayers[i].dropout)
    if (block.dropout) gradient *= sample.kept[unit<i>(element)] ? block.scale : 0.0f;
  float& value = sample.values[at.output + element];
  if constexpr (kKeepsSlope<i>)
    value = Activated<i>::backward(gradient, sample.slopes[kSlopesBefore<i> + element]);
  else
    value = Activated<i>::backward(gradient, Activated<i>::slope(value));
}

// --- Convolutions -------------------------------------------------------------------------------

template <int i>
struct Convolution {
  static constexpr Place at = kPlaces[i];
  static constexpr int weights_at = kAligned[i].weights, biases_at = kAligned[i].biases;
  static constexpr bool pool = kLayers[i].pool;
  static constexpr int in = at.in, out = at.out, side = at.in_side, output_side = at.side;
  static constexpr int kernel = kLayers[i].kernel, stride = kLayers[i].stride;
  static constexpr int window = pool ? 2 : 1, sums = output_side * window;
  static constexpr int row_terms = kernel * in;
  static constexpr int kExponent = 0x7f800000;  // its bits are set in infinite numbers and NaN
  static constexpr uint8_t kNotFinite = 4;      // in a route: a sum of the window is one of these

  // In the forward pass an item is one pooling window, or up to four neighbouring sums of a row, in a
  // few channels.
  static constexpr int places = pool ? 4 : smaller(4, sums);
  static constexpr int across = pool ? output_side : ceil_divide(sums, places);
  static constexpr int spots = output_side * across;
  static constexpr int group = width_of(spots * kPlan.together, out, 8);
  static constexpr int step(int p) { return pool ? p / 2 * side + p % 2 : p; }

  template <int n, int size, bool training>
  static inline void tile(const Block& block, Sample& sample, int y, int x, int channel) {
    const float* input = sample.values + at.input + stride * window * (y * side + x) * in;
    const float* weights = block.weights + weights_at + channel;
    float sum[n][size];
#pragma unroll
    for (int c = 0; c < size; c++) {
      const float bias = block.weights[biases_at + channel + c];
#pragma unroll
      for (int p = 0; p < n; p++) sum[p][c] = bias;
    }
#pragma unroll 1
    for (int row = 0; row < kernel; row++) {
#pragma unroll(row_terms <= 40 ? row_terms : 8)
      for (int t = 0; t < row_terms; t++) {
        float weight[size];
        load<smaller(alignment(out), alignment(group))>(weights + (row * row_terms + t) * out, weight);
#pragma unroll
        for (int p = 0; p < n; p++) {
          const float value = input[row * side * in + t + stride * step(p) * in];
#pragma unroll
          for (int c = 0; c < size; c++) sum[p][c] = fma(value, weight[c], sum[p][c]);
        }
      }
    }
    const int element = (y * output_side + x) * out + channel;
#pragma unroll
    for (int c = 0; c < size; c++) {
      if constexpr (pool) {  // the first of equal maxima, and a NaN wins
        float best = sum[0][c];
        int route = 0;
#pragma unroll
        for (int p = 1; p < n; p++)
          if (sum[p][c] > best || sum[p][c] != sum[p][c]) {
            best = sum[p][c];
            route = p;
          }
        if constexpr (training) {
          bool finite = true;
#pragma unroll
          for (int p = 0; p < n; p++) finite &= (bits<Int>(sum[p][c]) & kExponent) != kExponent;
          sample.routes[at.routes + element + c] = uint8_t(finite ? route : route | kNotFinite);
        }
        set_output<i, training>(block, sample, element + c, best);
      } else {
#pragma unroll
        for (int p = 0; p < n; p++)
          set_output<i, training>(block, sample, element + p * out + c, sum[p][c]);
      }
    }
  }

  template <int n, bool training>
  static inline void tiles(const Block& block, Sample& sample, int y, int x, int channel) {
    constexpr int rest = out % group;
    if (rest == 0 || channel + group <= out) tile<n, group, training>(block, sample, y, x, channel);
    else if constexpr (rest > 0) tile<n, rest, training>(block, sample, y, x, channel);
  }

  template <bool training>
  static inline void forward(const Block& block) {
    constexpr int groups = ceil_divide(out, group);
    share(spots * block.count * groups, [&](int item) {
      const int channel = item % groups * group, more = item / groups;
      Sample& sample = block.samples[more % block.count];
      const int spot = more / block.count;
      const int y = spot / across, x = spot % across * (pool ? 1 : places);
      constexpr int rest = pool ? 0 : sums % places;
      if (rest == 0 || x + places <= sums) tiles<places, training>(block, sample, y, x, channel);
      else if constexpr (rest > 0) tiles<rest, training>(block, sample, y, x, channel);
    });
  }

  // In a pooling window only the largest sum has a gradient. The weights' gradients take these in the
  // order in which the lanes take all sums: row of windows by row of windows, first those in the upper
  // row of sums. Returns whether a thread has met a sum that is not finite.
  static constexpr int listed = round_up(4, output_side * output_side);  // for each channel

  static inline bool sort_gradients(const Block& block) {
    int seen = 0;
    share(out * block.count * output_side, [&](int item) {
      const int y = item % output_side, more = item / output_side;
      Sample& sample = block.samples[more / out];
      const int channel = more % out, line = y * output_side * out + channel;
      const float* gradients = sample.values + at.output + line;
      const uint8_t* routes = sample.routes + at.routes + line;
      int next = channel * listed + y * output_side;
      for (int row = 0; row < 2; row++)
        for (int x = 0; x < output_side; x++) {
          const int route = routes[x * out];
          seen |= route;
          if (route / 2 % 2 != row) continue;
          sample.sorted[next] = gradients[x * out];
          sample.patches[next++] = Patch(stride * ((2 * y + row) * side + 2 * x + route % 2));
        }
    });
    return seen & kNotFinite;
  }

  // Adds the gradients of the weights. An item is a few terms of a row in one channel, or a bias.
  static constexpr int terms = width_of(kernel * out, row_terms, 8);

  template <int size>
  static inline void add_patch(float (&sum)[size], const float* patch, float gradient) {
    float value[size];
    load<smaller(alignment(at.input), smaller(alignment(in), alignment(terms)))>(patch, value);
#pragma unroll
    for (int t = 0; t < size; t++) sum[t] = fma(value[t], gradient, sum[t]);
  }

  template <int size>
  static inline void add_weight_gradients(const Block& block, int row, int term, int channel,
                                          bool finite) {
    float* total = block.gradients + weights_at + (row * row_terms + term) * out + channel;
    float sum[size];
#pragma unroll
    for (int t = 0; t < size; t++) sum[t] = total[t * out];
    for (int s = 0; s < block.count; s++) {
      const Sample& sample = block.samples[s];
      const float* input = sample.values + at.input + row * side * in + term;
      if constexpr (pool) {
        constexpr int count = output_side * output_side;
        const float* gradients = sample.sorted + channel * listed;
        const Patch* patches = sample.patches + channel * listed;
#pragma unroll(count < 8 ? count : 8)
        for (int k = 0; k < count; k++) add_patch(sum, input + patches[k] * in, gradients[k]);
        if (!finite)  // as in the lanes and in torch, zero times an infinite number is NaN
          for (int place = 0; place < count; place++) {
            const int route = sample.routes[at.routes + place * out + channel];
            const int y = place / output_side * 2, x = place % output_side * 2;
            for (int p = 0; p < 4 && route & kNotFinite; p++)
              if (p != route % 4)
                add_patch(sum, input + stride * ((y + p / 2) * side + x + p % 2) * in, 0.0f);
          }
      } else {
        const float* gradients = sample.values + at.output + channel;
        for (int y = 0; y < sums; y++)
#pragma unroll 4
          for (int x = 0; x < sums; x++)
            add_patch(sum, input + stride * (y * side + x) * in, gradients[(y * sums + x) * out]);
      }
    }
#pragma unroll
    for (int t = 0; t < size; t++) total[t * out] = sum[t];
  }

  static inline void add_bias_gradient(const Block& block, int channel) {
    float sum = block.gradients[biases_at + channel];
    for (int s = 0; s < block.count; s++)
      for (int place = 0; place < output_side * output_side; place++)
        sum += block.samples[s].values[at.output + place * out + channel];
    block.gradients[biases_at + channel] = sum;
  }

  static inline void weight_gradients(const Block& block) {
    constexpr int tiles = ceil_divide(row_terms, terms), rest = row_terms % terms;
    bool finite = true;
    if constexpr (pool) finite = !__syncthreads_or(sort_gradients(block));
    share(out * (kernel * tiles + 1), [&](int item) {
      const int term = item % tiles * terms, row = item / tiles % kernel;
      const int channel = item / tiles / kernel;
      if (channel >= out)
        add_bias_gradient(block, item - out * kernel * tiles);
      else if (rest == 0 || term + terms <= row_terms)
        add_weight_gradients<terms>(block, row, term, channel, finite);
      else if constexpr (rest > 0)
        add_weight_gradients<rest>(block, row, term, channel, finite);
    });
  }

  // The gradients of the input. An item is the pixels of a row under a few strips of sums, in a few
  // channels. A pixel takes its terms band by band, within a band from the bottom row of sums to the
  // top, then strip by strip, for each channel from right to left.
  static constexpr int band = band_rows(pool, sums, out), strip = strip_width(sums);
  static constexpr int strip_pixels = stride * strip;
  static constexpr int strips = ceil_divide(ceil_divide(side, ceil_divide(side, 16)), strip_pixels);
  static constexpr int pixels = strips * strip_pixels, stretches = ceil_divide(side, pixels);
  static constexpr int reach = (kernel - 1 + stride * (strip - 1)) / strip_pixels;  // strips before
  static constexpr int channels = width_of(side * stretches * kPlan.together, in, 4);

  static inline float gradient_of(const Sample& sample, int y, int x, int channel) {
    const int element = (y / window * output_side + x / window) * out + channel;
    const float gradient = sample.values[at.output + element];
    if constexpr (pool)
      return sample.routes[at.routes + element] % 4 == y % 2 * 2 + x % 2 ? gradient : 0.0f;
    return gradient;
  }

  template <int size>
  static inline void make_input_gradients(const Block& block, Sample& sample, int row, int stretch,
                                          int channel) {
    float sum[pixels][size];
#pragma unroll
    for (int p = 0; p < pixels; p++)
#pragma unroll
      for (int c = 0; c < size; c++) sum[p][c] = 0.0f;
    const int last = smaller(row / stride, sums - 1);
    const int first = larger(0, ceil_divide(row - kernel + 1, stride));
    for (int start = first / band * band; start <= last; start += band)
      for (int y = smaller(last, start + band - 1); y >= larger(first, start); y--) {
        const float* weights =
            block.weights + weights_at + ((row - stride * y) * row_terms + channel) * out;
#pragma unroll
        for (int d = -reach; d < strips; d++) {
          const int left = (stretch * strips + d) * strip;
          if (left < 0 || left >= sums) continue;
#pragma unroll 1
          for (int o = 0; o < out; o++) {
            float gradient[strip];
#pragma unroll
            for (int p = 0; p < strip; p++)
              gradient[p] = left + p < sums ? gradient_of(sample, y, left + p, o) : 0.0f;
#pragma unroll
            for (int column = 0; column < kernel; column++)
#pragma unroll
              for (int c = 0; c < size; c++) {
                const float weight = weights[(column * in + c) * out + o];
#pragma unroll
                for (int p = 0; p < strip; p++) {
                  const int pixel = stride * (strip * d + p) + column;
                  if (pixel >= 0 && pixel < pixels && left + p < sums)
                    sum[pixel][c] = fma(gradient[p], weight, sum[pixel][c]);
                }
              }
          }
        }
      }
#pragma unroll
    for (int p = 0; p < pixels; p++) {
      const int x = stretch * pixels + p;
      if (x >= side) break;
#pragma unroll
      for (int c = 0; c < size; c++) {
        const int element = (row * side + x) * in + channel + c;
        if constexpr (kAdapted<i>) sample.values[at.input + element] = sum[p][c];
        else set_sum_gradient<i - 1>(block, sample, element, sum[p][c]);
      }
    }
  }

  static inline void input_gradients(const Block& block) {
    constexpr int groups = ceil_divide(in, channels), rest = in % channels;
    share(side * stretches * block.count * groups, [&](int item) {
      Sample& sample = block.samples[item % block.count];
      const int row = item / block.count % side, more = item / block.count / side;
      const int stretch = more % stretches, channel = more / stretches * channels;
      if (rest == 0 || channel + channels <= in)
        make_input_gradients<channels>(block, sample, row, stretch, channel);
      else if constexpr (rest > 0)
        make_input_gradients<rest>(block, sample, row, stretch, channel);
    });
  }
};

// --- Linear layers ------------------------------------------------------------------------------

template <int i>
struct Linear {
  static constexpr Place at = kPlaces[i];
  static constexpr int weights_at = kAligned[i].weights, biases_at = kAligned[i].biases;
  static constexpr int in = at.in * at.in_side * at.in_side, out = at.out;
  static constexpr int group = width_of(kPlan.together, out, 4);  // outputs of an item

  template <int size, bool training>
  static inline void tile(const Block& block, Sample& sample, int first) {
    float sum[size];
#pragma unroll
    for (int o = 0; o < size; o++) sum[o] = block.weights[biases_at + first + o];
    const float* weights = block.weights + weights_at + first;
#pragma unroll 4
    for (int k = 0; k < in; k++) {
      const float value = sample.values[at.input + k];
      float weight[size];
      load<smaller(alignment(out), alignment(group))>(weights + k * out, weight);
#pragma unroll
      for (int o = 0; o < size; o++) sum[o] = fma(value, weight[o], sum[o]);
    }
#pragma unroll
    for (int o = 0; o < size; o++) set_output<i, training>(block, sample, first + o, sum[o]);
  }

  template <bool training>
  static inline void forward(const Block& block) {
    constexpr int groups = ceil_divide(out, group), rest = out % group;
    share(block.count * groups, [&](int item) {
      Sample& sample = block.samples[item / groups];
      const int first = item % groups * group;
      if (rest == 0 || first + group <= out) tile<group, training>(block, sample, first);
      else if constexpr (rest > 0) tile<rest, training>(block, sample, first);
    });
  }

  static constexpr int terms = width_of(out, in, 4);

  template <int size>
  static inline void add_weight_gradients(const Block& block, int term, int o) {
    float* total = block.gradients + weights_at + term * out + o;
    float sum[size];
#pragma unroll
    for (int t = 0; t < size; t++) sum[t] = total[t * out];
    for (int s = 0; s < block.count; s++) {
      const float* values = block.samples[s].values;
      const float gradient = values[at.output + o];
      float value[size];
      load<smaller(alignment(at.input), alignment(terms))>(values + at.input + term, value);
#pragma unroll
      for (int t = 0; t < size; t++) sum[t] = fma(value[t], gradient, sum[t]);
    }
#pragma unroll
    for (int t = 0; t < size; t++) total[t * out] = sum[t];
  }

  static inline void add_bias_gradient(const Block& block, int o) {
    float sum = block.gradients[biases_at + o];
    for (int s = 0; s < block.count; s++) sum += block.samples[s].values[at.output + o];
    block.gradients[biases_at + o] = sum;
  }

  static inline void weight_gradients(const Block& block) {
    constexpr int tiles = ceil_divide(in, terms), rest = in % terms;
    share((tiles + 1) * out, [&](int item) {
      const int o = item % out, term = item / out * terms;
      if (term >= in) add_bias_gradient(block, o);
      else if (rest == 0 || term + terms <= in) add_weight_gradients<terms>(block, term, o);
      else if constexpr (rest > 0) add_weight_gradients<rest>(block, term, o);
    });
  }

  static inline void input_gradients(const Block& block) {
    share(block.count * in, [&](int item) {
      Sample& sample = block.samples[item / in];
      const int k = item % in;
      const float* weights = block.weights + weights_at + k * out;
      constexpr int width = alignment(out);
      float sum = 0.0f;
#pragma unroll 4
      for (int o = 0; o < out; o += width) {
        float weight[width];
        load<width>(weights + o, weight);
#pragma unroll
        for (int w = 0; w < width; w++)
          sum = fma(weight[w], sample.values[at.output + o + w], sum);
      }
      if constexpr (kAdapted<i>) sample.values[at.input + k] = sum;
      else set_sum_gradient<i - 1>(block, sample, k, sum);
    });
  }
};

template <int i>
using LayerAt = typename Either<(kLayers[i].kernel > 0)>::template type<Convolution<i>, Linear<i>>;

// --- The network --------------------------------------------------------------------------------

// The input of the i-th layer from the output before it: padded with zeros, or averaged.
template <int i>
inline void adapt(const Block& block) {
  static constexpr Place at = kPlaces[i];
  if constexpr (kAveraged<i>) {
    constexpr int places = (at.input - at.source) / at.in;
    share(block.count * at.in, [&](int item) {
      float* values = block.samples[item / at.in].values;
      const int c = item % at.in;
      float sum = values[at.source + c];
      for (int place = 1; place < places; place++) sum += values[at.source + place * at.in + c];
      values[at.input + c] = sum / float(places);
    });
  } else {
    constexpr int padding = kLayers[i].padding, inner = at.in_side - 2 * padding;
    constexpr int size = at.in_side * at.in_side * at.in;
    share(block.count * size, [&](int item) {
      float* values = block.samples[item / size].values;
      const int element = item % size, place = element / at.in;
      const int y = place / at.in_side - padding, x = place % at.in_side - padding;
      const bool inside = y >= 0 && y < inner && x >= 0 && x < inner;
      values[at.input + element] =
          inside ? values[at.source + (y * inner + x) * at.in + element % at.in] : 0.0f;
    });
  }
}

// The way back of `adapt`, to the gradients of the sums before it.
template <int i>
inline void adapt_back(const Block& block) {
  static constexpr Place at = kPlaces[i];
  if constexpr (kAveraged<i>) {
    constexpr int places = (at.input - at.source) / at.in, size = places * at.in;
    share(block.count * size, [&](int item) {
      Sample& sample = block.samples[item / size];
      const int element = item % size;
      set_sum_gradient<i - 1>(block, sample, element,
                         sample.values[at.input + element % at.in] / float(places));
    });
  } else {
    constexpr int padding = kLayers[i].padding, inner = at.in_side - 2 * padding;
    constexpr int size = inner * inner * at.in;
    share(block.count * size, [&](int item) {
      Sample& sample = block.samples[item / size];
      const int element = item % size, y = element / at.in / inner, x = element / at.in % inner;
      const int padded = ((y + padding) * at.in_side + x + padding) * at.in + element % at.in;
      set_sum_gradient<i - 1>(block, sample, element, sample.values[at.input + padded]);
    });
  }
}

template <int i, bool training>
inline void forward(const Block& block) {
  LayerAt<i>::template forward<training>(block);
  __syncthreads();
  if constexpr (i + 1 < kDepth) {
    if constexpr (kAdapted<i + 1>) {
      adapt<i + 1>(block);
      __syncthreads();
    }
    forward<i + 1, training>(block);
  }
}

// The layers from the i-th back to the first: adds to the gradients of the weights.
template <int i>
inline void backward(const Block& block) {
  LayerAt<i>::weight_gradients(block);
  __syncthreads();
  if constexpr (i > 0) {
    LayerAt<i>::input_gradients(block);
    __syncthreads();
    if constexpr (kAdapted<i>) {
      adapt_back<i>(block);
      __syncthreads();
    }
    backward<i - 1>(block);
  }
}

// The images and labels of block.count samples, `index` of which gives the s-th; images become
// [row][column][channel], padded as the first layer has it.
template <class Index>
inline void load_samples(const Block& block, const Arguments& with, Index index) {
  static constexpr Place at = kPlaces[0];
  constexpr int padding = kLayers[0].padding;
  share(block.count * kSeen, [&](int item) {
    const int s = item / kSeen, element = item % kSeen, place = element / kChannels;
    const int y = place / kSeenSide - padding, x = place % kSeenSide - padding;
    const bool inside = y >= 0 && y < kSide && x >= 0 && x < kSide;
    const float* image = with.images + index(s) * kPixels;
    block.samples[s].values[at.input + element] =
        inside ? image[(element % kChannels * kSide + y) * kSide + x] : 0.0f;
  });
  share(block.count, [&](int s) { block.results.labels[s] = with.labels[index(s)]; });
}

// Which units dropout keeps, see generation/streams.py. `place` is that of the first sample in the
// batch.
inline void draw_masks(const Block& block, const Rates& rates, int64_t step, int64_t place) {
  constexpr uint32_t purpose = 1;
  constexpr int quarters = larger(1, ceil_divide(kEnd.units, 4));
  share(block.count * quarters, [&](int item) {
    const int s = item / quarters, quarter = item % quarters;
    Word word[4] = {Word(quarter), purpose << 24 | Word(place + s), Word(step),
                    Word(uint64_t(step) >> 32)};
    philox(word, Word(rates.seed), Word(rates.seed >> 32));
    for (int k = 0; k < 4 && 4 * quarter + k < kEnd.units; k++)
      block.samples[s].kept[4 * quarter + k] = word[k] >= rates.dropout_threshold;
  });
}

// The losses of block.count samples; the logits become their gradients times `share_of_one`.
inline void score(const Block& block, float share_of_one) {
  share(block.count, [&](int s) {
    const LogSoftmaxNll<kClasses> result(block.samples[s].values + kLogits,
                                         block.results.labels[s], share_of_one);
    block.results.losses[s] = result.loss;
    block.results.correct[s] = result.correct ? 1 : 0;
  });
}

inline void add_totals(const Block& block, Totals& totals) {
  if (threadIdx.x == 0)
    for (int s = 0; s < block.count; s++) {
      totals.loss += double(block.results.losses[s]);
      totals.correct += block.results.correct[s];
    }
}

// How many of `size` samples are taken together, so that the parts are about equal.
inline int samples_at_once(int64_t size) {
  const int64_t rounds = (size + kPlan.together - 1) / kPlan.together;
  return int((size + rounds - 1) / rounds);
}

// This block's memory, its weights loaded.
inline Block make_block(const Arguments& with, float* parameters) {
  unsigned char* shared = shared_memory();
  unsigned char* scratch =
      with.scratch + (blockIdx.y * gridDim.x + blockIdx.x) * uint64_t(kScratchBytes);
  Block block{nullptr, nullptr, nullptr, *reinterpret_cast<Results*>(shared), 0, false, 1.0f};
  shared += sizeof(Results);
  if constexpr (kPlan.weights) {
    Weights& weights = *reinterpret_cast<Weights*>(shared);
    shared += sizeof(Weights);
    block.weights = weights.values;
    block.gradients = weights.gradients;
    share(kSpan, [&](int w) { block.weights[w] = parameters[w]; });
  } else {
    block.weights = parameters;
    block.gradients = reinterpret_cast<float*>(scratch);
    scratch += sizeof(float) * kSpan;
  }
  block.samples = reinterpret_cast<Sample*>(kPlan.samples ? shared : scratch);
  return block;
}

// One step of the optimizer.
inline void optimize(const Block& block, float* parameters, const Arguments& with,
                     const Rates& rates, const Step& step) {
  const Pace pace{{rates.learning_rate * step.factor},
                  step.momentum,
                  step.mean_correction,
                  step.root_correction,
                  rates.weight_decay,
                  with.momenta ? float(step.momentum) : rates.momentum};
  const bool known = with_optimizer(with.optimizer, pace, [&](const auto& optimizer) {
    share(kSpan, [&](int w) {
      optimizer(block.weights[w], block.gradients[w], parameters[kSpan + w],
                parameters[2 * kSpan + w]);
    });
  });
  if (!known) __trap();
}

}  // namespace networks

using namespace networks;

extern "C" {

// What Python must know before a launch.
__device__ int64_t facts[] = {kSpan,        kPlan.together, kPlan.weights, kPlan.samples,
                              kSharedBytes, kScratchBytes,  kThreads,      kSliceImages};

// One epoch of each model, grid [models].
__global__ void __launch_bounds__(kThreads, kBlocks) train(const Arguments with) {
  const int64_t model = with.first_model + blockIdx.x;
  float* parameters = with.parameters + model * 3 * kSpan;
  const Rates rates = with.rates[model];
  const int32_t* order = with.orders + model * with.n;
  Block block = make_block(with, parameters);
  block.dropout = with.dropout;
  block.scale = rates.dropout_scale;
  Totals totals{};
  int64_t number = 0;  // of the step
  for (int64_t start = 0; start < with.n; start += with.batch_size, number++) {
    const int64_t size = with.n - start < with.batch_size ? with.n - start : with.batch_size;
    share(kSpan, [&](int w) { block.gradients[w] = 0.0f; });
    const int most = samples_at_once(size);
    for (int64_t begun = 0; begun < size; begun += most) {
      block.count = int(size - begun < most ? size - begun : most);
      load_samples(block, with, [&](int s) { return int64_t(order[start + begun + s]); });
      if constexpr (kEnd.units > 0)
        if (block.dropout) draw_masks(block, rates, with.before + number, begun);
      __syncthreads();
      forward<0, true>(block);
      score(block, 1.0f / float(size));
      __syncthreads();
      add_totals(block, totals);
      backward<kDepth - 1>(block);
    }
    optimize(block, parameters, with, rates, with.steps[number]);
    __syncthreads();
  }
  if constexpr (kPlan.weights) share(kSpan, [&](int w) { parameters[w] = block.weights[w]; });
  if (threadIdx.x == 0) with.totals[model] = totals;
}

// The losses of the same images for each model, grid [models][slices of kSliceImages images].
__global__ void __launch_bounds__(kThreads, kBlocks) evaluate(const Arguments with) {
  const int64_t model = with.first_model + blockIdx.x, slice = with.first_slice + blockIdx.y;
  const int64_t slices = (with.n + kSliceImages - 1) / kSliceImages;
  Block block = make_block(with, with.parameters + model * 3 * kSpan);
  Totals totals{};
  const int64_t start = slice * kSliceImages;
  const int64_t size = with.n - start < kSliceImages ? with.n - start : kSliceImages;
  const int most = samples_at_once(size);
  for (int64_t begun = 0; begun < size; begun += most) {
    block.count = int(size - begun < most ? size - begun : most);
    load_samples(block, with, [&](int s) { return start + begun + s; });
    __syncthreads();
    forward<0, false>(block);
    score(block, 1.0f);
    __syncthreads();
    share(block.count, [&](int s) {
      with.losses[model * with.n + start + begun + s] = block.results.losses[s];
    });
    add_totals(block, totals);
    __syncthreads();
  }
  totals.loss = 0;
  if (threadIdx.x == 0) with.totals[model * slices + slice] = totals;
}

// Adds up the losses of each model in the order of the images, grid [models / kThreads].
__global__ void add_losses(const Arguments with) {
  const int64_t model = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (model >= with.models) return;
  double sum = 0;
  for (int64_t image = 0; image < with.n; image++) sum += double(with.losses[model * with.n + image]);
  with.totals[model * ((with.n + kSliceImages - 1) / kSliceImages)].loss = sum;
}

}  // extern "C"
