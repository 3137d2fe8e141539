// The kinds of layer, one template each. An element of an array is a vector, one number of each
// model: images and activations [row][column][channel], convolution weights
// [row][column][in][out], linear weights [in][out].
//
// Convolutions are nearly all of the work. Each of their three loops keeps a small tile of sums in
// registers, so that two fused multiply-adds per cycle need no more than two loads. How a tile is
// cut may depend on the number of registers; the order in which one sum takes its terms may not.

#pragma once

#include "vectors.hpp"

namespace lanes {

// Kept apart: the compiler allocates registers best in a function of one hot loop.
#define NOINLINE __attribute__((noinline))
#define ALWAYS_INLINE __attribute__((always_inline)) inline

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

// Calls body(size, start) for [0, total) in groups of `group`, the last one smaller; size is a
// compile-time constant.
template <int total, int group, class Body>
inline void in_groups(Body body) {
  for (int start = 0; start + group <= total; start += group)
    body(std::integral_constant<int, group>{}, start);
  if constexpr (total % group != 0)
    body(std::integral_constant<int, total % group>{}, total - total % group);
}

// What one step of all tiles of a product rows x columns costs: two multiply-adds and two loads in
// a cycle, a sum at most every four or five cycles; at equal cycles, fewer loads.
constexpr int tile_cost(int rows, int columns, int tile_rows, int tile_columns) {
  int cost = 0;
  for (int row = 0; row < rows; row += tile_rows)
    for (int column = 0; column < columns; column += tile_columns) {
      const int r = smaller(tile_rows, rows - row), c = smaller(tile_columns, columns - column);
      cost += 4 * larger(larger(r * c, r + c), 10) + r + c;
    }
  return cost;
}

struct Tile {
  int rows, columns;
};

// The cheapest tile of a product rows x columns, at least `least_rows` high; its sums, one side and
// a spare fit the registers.
constexpr Tile best_tile(int rows, int columns, int least_rows = 1) {
  Tile best{least_rows, 1};
  for (int r = least_rows; r <= smaller(rows, 8); r++)
    for (int c = 1; c <= smaller(columns, 8); c++)
      if (r * c + smaller(r, c) + 1 < kRegisters &&
          tile_cost(rows, columns, r, c) < tile_cost(rows, columns, best.rows, best.columns))
        best = {r, c};
  return best;
}

// A model's seed, in each lane.
struct Key {
  Word low, high;
};

// Four random words of a sample for one purpose, as generation/streams.py defines them: Philox at
// counter (block, purpose << 24 | sample, step low, step high) under the model's seed as key.
inline void draw(Word (&word)[4], const Key& key, uint32_t purpose, uint64_t step, uint32_t sample,
                 int block) {
  word[0] = all(uint32_t(block));
  word[1] = all(purpose << 24 | sample);
  word[2] = all(uint32_t(step));
  word[3] = all(uint32_t(step >> 32));
  philox(word, key.low, key.high);
}

// One sample's dropout masks, 0 or 1 / (1 - rate), for units 0, 1, 2, ...: word unit % 4 of block
// unit / 4 decides.
struct Dropout {
  static constexpr uint32_t purpose = 1;
  Key key;
  Word threshold;
  Float scale;

  NOINLINE void masks(Float* mask, int units, uint64_t step, uint32_t sample) const {
    for (int unit = 0; unit < units; unit += 4) {
      Word word[4];
      draw(word, key, purpose, step, sample, unit / 4);
      for (int i = 0; i < 4 && unit + i < units; i++)
        mask[unit + i] = word[i] >= threshold ? scale : all(0.0f);
    }
  }
};

// One sample's standard normal numbers, two of each pair of words; see `gaussian_noise` in
// generation/streams.py.
struct Normals {
  static constexpr uint32_t purpose = 2;
  Key key;
  uint64_t step;
  uint32_t sample;

  // Units first ... first + count - 1, both multiples of 4. In two passes, because the processor
  // finds more to do side by side in each.
  NOINLINE void draw_units(Float* normals, int first, int count) const {
    for (int unit = 0; unit < count; unit += 4) {
      Word word[4];
      draw(word, key, purpose, step, sample, (first + unit) / 4);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const Float number = __builtin_convertvector(bits<Int>(word[i] >> 8), Float);
        normals[unit + i] = (number + 0.5f) * 0x1p-24f;
      }
    }
    for (int unit = 0; unit < count; unit += 2) {
      const Float radius = sqrt(-2.0f * log(normals[unit]));
      const Turn turn(normals[unit + 1]);
      normals[unit] = radius * turn.cosine;
      normals[unit + 1] = radius * turn.sine;
    }
  }
};

// Local reparametrisation (Kingma, Salimans and Welling, "Variational dropout and the local
// reparameterization trick", 2015): weights with independent normal noise give a sum the same layer
// of means, and as variance the same layer of squared inputs under the weights' variances. A sum
// becomes mean + deviation * normal, deviation = sqrt(variance + 1e-15).
struct Noise {
  static constexpr bool any = true;
  const Float *variances, *bias_variances, *squares;
  Normals normals;
  int unit;        // the number of the layer's first normal
  Float* spreads;  // receives d output / d variance = normal / (2 deviation)

  static Float deviation(Float variance) { return sqrt(variance + 1e-15f); }
  static Float spread(Float deviation, Float normal) { return normal / (deviation + deviation); }
};

struct NoNoise {
  static constexpr bool any = false;
};

// Convolution (stride 1, no padding) over a square image, followed by 2x2 max-pooling where `pool`.
// As in torch an odd last row and column are dropped, the first of equal maxima is taken, and a NaN
// wins. `Input` is a function from an element of the image to its vector.
template <int in, int out, int kernel, int side, bool pool>
struct Convolution {
  static constexpr int window = pool ? 2 : 1;
  static constexpr int output_side = (side - kernel + 1) / window;
  static constexpr int sums = output_side * window;  // sums in a row, those dropped left out
  static constexpr int row_terms = kernel * in;  // terms of a sum side by side in the image

  // A tile is a pooling window, or up to four neighbouring sums, in a few channels.
  static constexpr int places = pool ? 4 : smaller(4, sums);
  static constexpr int group = best_tile(places, out, places).columns;
  // From the first of a tile's places to the p-th, in an image of this width.
  static constexpr int step(int p, int width) { return pool ? p / 2 * width + p % 2 : p; }

  // The sums of one tile, at the place `at` of the image.
  template <int n, int size, class Input>
  ALWAYS_INLINE static void add_products(const Float* weights, const Float* biases, Input input,
                                         int at, int channel, Float (&sum)[n][size]) {
#pragma GCC unroll 8
    for (int c = 0; c < size; c++)
#pragma GCC unroll 4
      for (int p = 0; p < n; p++) sum[p][c] = biases[channel + c];
    for (int row = 0; row < kernel; row++) {
      const int first = (at + row * side) * in;
      const Float* w = weights + row * row_terms * out + channel;
#pragma GCC unroll 2
      for (int t = 0; t < row_terms; t++) {
        Float pixel[n];
#pragma GCC unroll 4
        for (int p = 0; p < n; p++) pixel[p] = input(first + t + step(p, side) * in);
#pragma GCC unroll 8
        for (int c = 0; c < size; c++) {
          const Float weight = w[t * out + c];
#pragma GCC unroll 4
          for (int p = 0; p < n; p++) sum[p][c] = fma(pixel[p], weight, sum[p][c]);
        }
      }
    }
  }

  // Sets the outputs and, for each pooled one, from which place of its window it came. Noise comes
  // before the pooling, which takes the maxima of noisy sums.
  template <class Input, class SomeNoise>
  NOINLINE static void forward(const Float* weights, const Float* biases, Input input,
                               Float* outputs, Int* routes, const SomeNoise noise) {
    constexpr int width = side - kernel + 1, drawn = window * width * out;
    static_assert(!SomeNoise::any || drawn % 4 == 0);
    Float normals[SomeNoise::any ? drawn : 1];
    for (int y = 0; y < output_side; y++) {
      if constexpr (SomeNoise::any)
        noise.normals.draw_units(normals, noise.unit + y * drawn, drawn);
      in_groups<output_side, pool ? 1 : places>([&](auto neighbours, int x) {
        constexpr int n = pool ? 4 : neighbours();
        in_groups<out, group>([&](auto channels, int channel) {
          constexpr int size = channels;
          const int at = window * (y * side + x);
          Float sum[n][size], deviation[n][size], normal[n][size];
          add_products(weights, biases, input, at, channel, sum);
          if constexpr (SomeNoise::any) {
            add_products(noise.variances, noise.bias_variances,
                         [&](int element) { return noise.squares[element]; }, at, channel,
                         deviation);
#pragma GCC unroll 8
            for (int c = 0; c < size; c++)
#pragma GCC unroll 4
              for (int p = 0; p < n; p++) {
                deviation[p][c] = Noise::deviation(deviation[p][c]);
                normal[p][c] = normals[(window * x + step(p, width)) * out + channel + c];
                sum[p][c] = fma(deviation[p][c], normal[p][c], sum[p][c]);
              }
          }
          const int element = (y * output_side + x) * out + channel;
#pragma GCC unroll 8
          for (int c = 0; c < size; c++) {
            if constexpr (pool) {
              Float best = sum[0][c];
              Int route = all(0);
#pragma GCC unroll 4
              for (int p = 1; p < n; p++) {
                const Int wins = (sum[p][c] > best) | (sum[p][c] != sum[p][c]);
                best = wins ? sum[p][c] : best;
                route = wins ? all(p) : route;
                if constexpr (SomeNoise::any) {
                  deviation[0][c] = wins ? deviation[p][c] : deviation[0][c];
                  normal[0][c] = wins ? normal[p][c] : normal[0][c];
                }
              }
              outputs[element + c] = best;
              routes[element + c] = route;
              if constexpr (SomeNoise::any)
                noise.spreads[element + c] = Noise::spread(deviation[0][c], normal[0][c]);
            } else {
#pragma GCC unroll 4
              for (int p = 0; p < n; p++) {
                outputs[element + p * out + c] = sum[p][c];
                if constexpr (SomeNoise::any)
                  noise.spreads[element + p * out + c] =
                      Noise::spread(deviation[p][c], normal[p][c]);
              }
            }
          }
        });
      });
    }
  }

  // On the way back the gradients of the sums are zero but where the maximum was; they are spread
  // out for one band of rows at a time. Those of a group of channels lie together: what the weight
  // gradients of one group need, for all of their terms, stays in the L1 cache.
  static constexpr int band = pool ? 2 : sums;
  static constexpr Tile tile = best_tile(row_terms, out);
  static constexpr int in_band(int place, int channel) {
    const int group = channel / tile.columns * tile.columns;
    return group * band * sums + place * smaller(tile.columns, out - group) + channel - group;
  }

  // Adds the gradients of weights and biases, and those of the image unless the pointer is null.
  // `gradient` is a function from an output to its gradient before the activation.
  template <class Input, class Gradient>
  static void backward(const Float* weights, Float* weight_gradients, Float* bias_gradients,
                       Input input, Float* image_gradients, Gradient gradient, const Int* routes) {
    Float gradients[band * sums * out];
    for (int y = 0; y < sums; y += band) {
      for (int row = 0; row < band; row += window)
        for (int column = 0; column < sums; column += window)
          for (int c = 0; c < out; c++) {
            const int element = ((y + row) / window * output_side + column / window) * out + c;
            const int place = row * sums + column;
            const Float g = gradient(element);
            bias_gradients[c] += g;
            if constexpr (pool) {
              const Int route = routes[element];
              gradients[in_band(place, c)] = route == 0 ? g : all(0.0f);
              gradients[in_band(place + 1, c)] = route == 1 ? g : all(0.0f);
              gradients[in_band(place + sums, c)] = route == 2 ? g : all(0.0f);
              gradients[in_band(place + sums + 1, c)] = route == 3 ? g : all(0.0f);
            } else {
              gradients[in_band(place, c)] = g;
            }
          }
      add_weight_gradients(gradients, y, weight_gradients, input);
      if (image_gradients) add_image_gradients(gradients, y, weights, image_gradients);
    }
  }

  // A tile is a few of the terms of a row in a few output channels, summed over the band.
  template <class Input>
  NOINLINE static void add_weight_gradients(const Float* gradients, int y, Float* weight_gradients,
                                            Input input) {
    in_groups<out, tile.columns>([&](auto channels, int channel) {
      constexpr int size = channels;
      for (int row = 0; row < kernel; row++)
        in_groups<row_terms, tile.rows>([&](auto rows, int term) {
          constexpr int terms = rows;
          Float sum[terms][size];
          Float* total = weight_gradients + (row * row_terms + term) * out + channel;
#pragma GCC unroll 8
          for (int t = 0; t < terms; t++)
#pragma GCC unroll 8
            for (int c = 0; c < size; c++) sum[t][c] = total[t * out + c];
          for (int r = 0; r < band; r++) {
            const int at = (y + r + row) * side * in + term;
            const Float* g = gradients + in_band(r * sums, channel);
#pragma GCC unroll 2
            for (int x = 0; x < sums; x++) {
              Float pixel[terms];
#pragma GCC unroll 8
              for (int t = 0; t < terms; t++) pixel[t] = input(at + x * in + t);
#pragma GCC unroll 8
              for (int c = 0; c < size; c++) {
                const Float slope = g[x * size + c];
#pragma GCC unroll 8
                for (int t = 0; t < terms; t++) sum[t][c] = fma(pixel[t], slope, sum[t][c]);
              }
            }
          }
#pragma GCC unroll 8
          for (int t = 0; t < terms; t++)
#pragma GCC unroll 8
            for (int c = 0; c < size; c++) total[t * out + c] = sum[t][c];
        });
    });
  }

  // A tile is the pixels of a row under `strip` neighbouring sums, in a few input channels. `strip`
  // decides in which order a pixel takes its terms: it must not depend on the registers.
  NOINLINE static void add_image_gradients(const Float* gradients, int y, const Float* weights,
                                           Float* image_gradients) {
    constexpr int strip = smaller(4, sums);
    constexpr int group = smaller(in, larger(1, (kRegisters - strip) / (strip + kernel - 1)));
    in_groups<in, group>([&](auto channels, int channel) {
      constexpr int size = channels;
      for (int row = 0; row < kernel; row++)
        for (int r = 0; r < band; r++)
          in_groups<sums, strip>([&](auto neighbours, int x) {
            constexpr int width = neighbours;
            constexpr int pixels = width + kernel - 1;
            Float sum[pixels][size];
            Float* total = image_gradients + ((y + r + row) * side + x) * in + channel;
#pragma GCC unroll 8
            for (int p = 0; p < pixels; p++)
#pragma GCC unroll 8
              for (int i = 0; i < size; i++) sum[p][i] = total[p * in + i];
            in_groups<out, tile.columns>([&](auto outputs, int first) {
              constexpr int count = outputs;
              const Float* g = gradients + in_band(r * sums + x, first);
              const Float* w = weights + (row * row_terms + channel) * out + first;
              for (int c = 0; c < count; c++) {
                Float slope[width];
#pragma GCC unroll 8
                for (int p = 0; p < width; p++) slope[p] = g[p * count + c];
#pragma GCC unroll 8
                for (int column = 0; column < kernel; column++)
#pragma GCC unroll 8
                  for (int i = 0; i < size; i++) {
                    const Float weight = w[(column * in + i) * out + c];
#pragma GCC unroll 8
                    for (int p = 0; p < width; p++)
                      sum[p + column][i] = fma(slope[p], weight, sum[p + column][i]);
                  }
              }
            });
#pragma GCC unroll 8
            for (int p = 0; p < pixels; p++)
#pragma GCC unroll 8
              for (int i = 0; i < size; i++) total[p * in + i] = sum[p][i];
          });
    });
  }
};

template <int in, int out>
struct Linear {
  static void forward(const Float* weights, const Float* biases, const Float* input,
                      Float* outputs) {
    constexpr int group = smaller(out, kRegisters == 32 ? 20 : 10);
    in_groups<out, group>([&](auto columns, int first) {
      constexpr int size = columns;
      Float sum[size];
#pragma GCC unroll 32
      for (int o = 0; o < size; o++) sum[o] = biases[first + o];
      for (int i = 0; i < in; i++)
#pragma GCC unroll 32
        for (int o = 0; o < size; o++)
          sum[o] = fma(input[i], weights[i * out + first + o], sum[o]);
#pragma GCC unroll 32
      for (int o = 0; o < size; o++) outputs[first + o] = sum[o];
    });
  }

  static void forward(const Float* weights, const Float* biases, const Float* input,
                      Float* outputs, NoNoise) {
    forward(weights, biases, input, outputs);
  }

  static void forward(const Float* weights, const Float* biases, const Float* input,
                      Float* outputs, const Noise& noise) {
    constexpr int drawn = (out + 3) / 4 * 4;
    Float normals[drawn], variances[out];
    noise.normals.draw_units(normals, noise.unit, drawn);
    forward(weights, biases, input, outputs);
    forward(noise.variances, noise.bias_variances, noise.squares, variances);
    for (int o = 0; o < out; o++) {
      const Float deviation = Noise::deviation(variances[o]);
      outputs[o] = fma(deviation, normals[o], outputs[o]);
      noise.spreads[o] = Noise::spread(deviation, normals[o]);
    }
  }

  static void backward(const Float* weights, Float* weight_gradients, Float* bias_gradients,
                       const Float* input, Float* input_gradients, const Float* gradients) {
    for (int o = 0; o < out; o++) bias_gradients[o] += gradients[o];
    for (int i = 0; i < in; i++) {
      const Float value = input[i];
      Float sum = all(0.0f);
#pragma GCC unroll 32
      for (int o = 0; o < out; o++) {
        weight_gradients[i * out + o] = fma(value, gradients[o], weight_gradients[i * out + o]);
        sum = fma(weights[i * out + o], gradients[o], sum);
      }
      input_gradients[i] = sum;
    }
  }
};

// The activations, under their names in builders/specification.py: y = activation(x) and, for the
// way back, its slope dy/dx.
namespace activations {

struct none {
  Float value, slope;
  explicit none(Float x) : value(x), slope(all(1.0f)) {}
  static Float backward(Float gradient, Float) { return gradient; }
};

struct Smooth {
  Float value, slope;
  // The gradient before the activation from the one behind it.
  static Float backward(Float gradient, Float slope) { return gradient * slope; }
};

struct tanh : Smooth {
  explicit tanh(Float x) {
    value = lanes::tanh(x);
    slope = fma(-value, value, all(1.0f));
  }
};

struct relu : Smooth {
  explicit relu(Float x) {
    value = x <= 0.0f ? all(0.0f) : x;  // so that NaN stays NaN
    slope = x <= 0.0f ? all(0.0f) : all(1.0f);
  }
  // A dead unit stops even NaN, as in torch.
  static Float backward(Float gradient, Float slope) {
    return slope == 0.0f ? all(0.0f) : gradient;
  }
};

struct sigmoid : Smooth {
  explicit sigmoid(Float x) {
    value = 1.0f / (1.0f + exp(-x));
    slope = value * (1.0f - value);
  }
};

struct gelu : Smooth {
  explicit gelu(Float x) {
    const Float normal = fma(all(0.5f), erf(x * 0.707106781186547524f), all(0.5f));
    value = x * normal;
    slope = fma(x * 0.398942280401432678f, exp(x * x * -0.5f), normal);
  }
};

// Klambauer et al., "Self-normalizing neural networks", 2017; the constants are torch's.
struct selu : Smooth {
  explicit selu(Float x) {
    const Float scale = all(1.0507009873554804934193349852946f), negative = all(1.7580993408473766f);
    const ReducedExp e(x < -87.0f ? all(-87.0f) : x > 0.0f ? all(0.0f) : x);
    const Float expm1 = fma(e.expm1, e.power, e.power - 1.0f);
    value = x > 0.0f ? x * scale : expm1 * negative;
    slope = x > 0.0f ? scale : fma(expm1, negative, negative);
  }
};

}  // namespace activations

// -log softmax(logits)[label]; the logits become their gradient times `share`. NaN in a logit makes
// everything NaN; the prediction is then, as in torch, the first NaN.
template <int classes>
struct LogSoftmaxNll {
  Float loss;
  Int correct;  // -1 (all bits) where the prediction is the label
  LogSoftmaxNll(Float* logits, Int label, float share) {
    Float top = logits[0];
    Int prediction = all(0);
    for (int c = 1; c < classes; c++) {
      const Int wins = (logits[c] > top) | ((logits[c] != logits[c]) & (top == top));
      top = wins ? logits[c] : top;
      prediction = wins ? all(c) : prediction;
    }
    Float exps[classes], sum = all(0.0f), own = all(0.0f);
    for (int c = 0; c < classes; c++) {
      const Float shifted = logits[c] - top;
      own = label == c ? shifted : own;
      exps[c] = exp(shifted);
      sum += exps[c];
    }
    loss = log(sum) - own;
    correct = prediction == label;
    const Float scale = share / sum;
    for (int c = 0; c < classes; c++)
      logits[c] = exps[c] * scale - (label == c ? all(share) : all(0.0f));
  }
};

// torch.optim.Adam with betas (0.9, 0.999), eps 1e-8 and the weight decay as L2 term.
struct Adam {
  Float step_size, weight_decay;
  float inverse_root;
  // step = 1, 2, ...; the corrections in double as torch has them.
  Adam(const double* learning_rates, Float decay, int64_t step) : weight_decay(decay) {
    const double correction = 1 - __builtin_pow(0.9, double(step));
    inverse_root = float(1 / __builtin_sqrt(1 - __builtin_pow(0.999, double(step))));
    for (int lane = 0; lane < kLanes; lane++)
      step_size[lane] = float(learning_rates[lane] / correction);
  }
  void operator()(Float& weight, Float gradient, Float& mean, Float& square) const {
    gradient = fma(weight_decay, weight, gradient);
    mean = fma(gradient - mean, all(0.1f), mean);
    square = fma(gradient * 0.001f, gradient, square * 0.999f);
    weight -= step_size * mean / fma(sqrt(square), all(inverse_root), all(1e-8f));
  }
};

// torch.optim.SGD with momentum, without dampening; the weight decay as L2 term.
struct Sgd {
  Float learning_rate, weight_decay, momentum;
  Sgd(const double* learning_rates, Float decay, Float momentum_)
      : weight_decay(decay), momentum(momentum_) {
    for (int lane = 0; lane < kLanes; lane++) learning_rate[lane] = float(learning_rates[lane]);
  }
  void operator()(Float& weight, Float gradient, Float& velocity) const {
    gradient = fma(weight_decay, weight, gradient);
    velocity = fma(momentum, velocity, gradient);
    weight = fma(-learning_rate, velocity, weight);
  }
};

}  // namespace lanes
