// The kinds of layer, one template each. An element of an array is a vector, one number of each
// model: images and activations [row][column][channel], convolution weights
// [row][column][in][out], linear weights [in][out].
//
// Convolutions are nearly all of the work. Each of their three loops keeps a small tile of sums in
// registers, so that two fused multiply-adds per cycle need no more than two loads. How a tile is
// cut may depend on the number of registers; the order in which one sum takes its terms may not.

#pragma once

#include "vectors.hpp"

#include "places.hpp"

namespace networks {

// Kept apart: the compiler allocates registers best in a function of one hot loop.
#define NOINLINE __attribute__((noinline))
#define ALWAYS_INLINE __attribute__((always_inline)) inline

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
constexpr long step_cost(int r, int c) { return 4 * larger(larger(r * c, r + c), 10) + r + c; }

constexpr long tile_cost(int rows, int columns, int tile_rows, int tile_columns) {
  const long down = rows / tile_rows, across = columns / tile_columns;  // whole tiles
  const int low = rows % tile_rows, narrow = columns % tile_columns;    // what remains
  return down * across * step_cost(tile_rows, tile_columns) +
         (low ? across * step_cost(low, tile_columns) : 0) +
         (narrow ? down * step_cost(tile_rows, narrow) : 0) +
         (low && narrow ? step_cost(low, narrow) : 0);
}

struct Tile {
  int rows, columns;
};

// The cheapest tile of a product rows x columns, at least `least_rows` high; its sums, its shorter
// side, a vector of the other one and `spare` more fit the registers.
constexpr Tile best_tile(int rows, int columns, int least_rows = 1, int spare = 0) {
  Tile best{least_rows, 1};
  for (int r = least_rows; r <= smaller(rows, 8); r++)
    for (int c = 1; c <= smaller(columns, 8); c++)
      if (r * c + smaller(r, c) + 1 + spare <= kRegisters &&
          tile_cost(rows, columns, r, c) < tile_cost(rows, columns, best.rows, best.columns))
        best = {r, c};
  return best;
}

// Adds left(r) * right(c) to the sums of a tile. The shorter side is kept in registers, the other
// one is read a vector at a time.
template <int rows, int columns, class Left, class Right>
ALWAYS_INLINE void add_outer_product(Float (&sum)[rows][columns], Left left, Right right) {
  if constexpr (rows <= columns) {
    Float kept[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) kept[r] = left(r);
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++) {
      const Float value = right(c);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) sum[r][c] = fma(kept[r], value, sum[r][c]);
    }
  } else {
    Float kept[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++) kept[c] = right(c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      const Float value = left(r);
#pragma GCC unroll 8
      for (int c = 0; c < columns; c++) sum[r][c] = fma(value, kept[c], sum[r][c]);
    }
  }
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

// Convolution over a square image, which is padded already, followed by 2x2 max-pooling where
// `pool`. As in torch an odd last row and column are dropped, the first of equal maxima is taken,
// and a NaN wins. `Input` is a function from an element of the image to its vector.
template <int in, int out, int kernel, int side, bool pool, int stride = 1>
struct Convolution {
  static constexpr int window = pool ? 2 : 1;
  static constexpr int all_sums = (side - kernel) / stride + 1;
  static constexpr int output_side = all_sums / window;
  static constexpr int sums = output_side * window;  // sums in a row, those dropped left out
  static constexpr int row_terms = kernel * in;  // terms of a sum side by side in the image

  // A tile is a pooling window, or a few neighbouring sums, in a few channels.
  static constexpr Tile sums_tile = pool ? best_tile(4, out, 4, 1) : best_tile(sums, out, 1, 1);
  static constexpr int places = sums_tile.rows, group = sums_tile.columns;
  // From the first of a tile's places to the p-th, in an image of this width.
  static constexpr int step(int p, int width) { return pool ? p / 2 * width + p % 2 : p; }

  // The sums of one tile, at the place `at` of the image.
  template <int n, int size, class Input>
  ALWAYS_INLINE static void add_products(const Float* weights, const Float* biases, Input input,
                                         int at, int channel, Float (&sum)[n][size]) {
#pragma GCC unroll 8
    for (int c = 0; c < size; c++)
#pragma GCC unroll 8
      for (int p = 0; p < n; p++) sum[p][c] = biases[channel + c];
    for (int row = 0; row < kernel; row++) {
      const int first = (at + row * side) * in;
      const Float* w = weights + row * row_terms * out + channel;
#pragma GCC unroll 2
      for (int t = 0; t < row_terms; t++) {
        add_outer_product(
            sum, [&](int p) { return input(first + t + stride * step(p, side) * in); },
            [&](int c) { return w[t * out + c]; });
      }
    }
  }

  // Sets the outputs and, for each pooled one, from which place of its window it came. Noise comes
  // before the pooling, which takes the maxima of noisy sums.
  template <class Input, class SomeNoise>
  NOINLINE static void forward(const Float* weights, const Float* biases, Input input,
                               Float* outputs, Int* routes, const SomeNoise noise) {
    constexpr int width = all_sums, drawn = window * width * out;
    Float drawings[SomeNoise::any ? drawn + 6 : 1], *normals = drawings;
    for (int y = 0; y < output_side; y++) {
      if constexpr (SomeNoise::any) {
        // Units are drawn by fours.
        const int first = noise.unit + y * drawn, early = first % 4;
        noise.normals.draw_units(drawings, first - early, (early + drawn + 3) / 4 * 4);
        normals = drawings + early;
      }
      in_groups<output_side, pool ? 1 : places>([&](auto neighbours, int x) {
        constexpr int n = pool ? 4 : neighbours();
        in_groups<out, group>([&](auto channels, int channel) {
          constexpr int size = channels;
          const int at = stride * window * (y * side + x);
          Float sum[n][size], deviation[n][size], normal[n][size];
          add_products(weights, biases, input, at, channel, sum);
          if constexpr (SomeNoise::any) {
            add_products(noise.variances, noise.bias_variances,
                         [&](int element) { return noise.squares[element]; }, at, channel,
                         deviation);
#pragma GCC unroll 8
            for (int c = 0; c < size; c++)
#pragma GCC unroll 8
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
#pragma GCC unroll 8
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
#pragma GCC unroll 8
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
  static constexpr int band = band_rows(pool, sums, out);
  static constexpr Tile tile = best_tile(row_terms, out, 1, pool ? 1 : 0);  // as measured
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
      const int height = smaller(band, sums - y);
      for (int row = 0; row < height; row += window)
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
      if (sums % band == 0 || height == band) {
        add_weight_gradients<band>(gradients, y, weight_gradients, input);
        if (image_gradients) add_image_gradients<band>(gradients, y, weights, image_gradients);
      } else if constexpr (sums % band != 0) {
        constexpr int rest = sums % band;
        add_weight_gradients<rest>(gradients, y, weight_gradients, input);
        if (image_gradients) add_image_gradients<rest>(gradients, y, weights, image_gradients);
      }
    }
  }

  // A tile is a few of the terms of a row in a few output channels, summed over the band.
  template <int height, class Input>
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
          for (int r = 0; r < height; r++) {
            const int at = (stride * (y + r) + row) * side * in + term;
            const Float* g = gradients + in_band(r * sums, channel);
#pragma GCC unroll 2
            for (int x = 0; x < sums; x++) {
              add_outer_product(
                  sum, [&](int t) { return input(at + stride * x * in + t); },
                  [&](int c) { return g[x * size + c]; });
            }
          }
#pragma GCC unroll 8
          for (int t = 0; t < terms; t++)
#pragma GCC unroll 8
            for (int c = 0; c < size; c++) total[t * out + c] = sum[t][c];
        });
    });
  }

  // `strip` neighbouring sums of a row, and then those that remain.
  template <int height>
  NOINLINE static void add_image_gradients(const Float* gradients, int y, const Float* weights,
                                           Float* image_gradients) {
    constexpr int strip = strip_width(sums), rest = sums % strip;
    for (int row = 0; row < kernel; row++) {
      Float* total = image_gradients + (stride * y + row) * side * in;
      const Float* w = weights + row * row_terms * out;
      add_strips<height, strip>(gradients, 0, sums - rest, w, total);
      if constexpr (rest > 0) add_strips<height, rest>(gradients, sums - rest, sums, w, total);
    }
  }

  // A tile is the pixels of a row under `width` neighbouring sums, in a few input channels.
  template <int height, int width>
  ALWAYS_INLINE static void add_strips(const Float* gradients, int start, int end,
                                       const Float* weights, Float* image_gradients) {
    constexpr int pixels = stride * (width - 1) + kernel;
    constexpr int group = smaller(in, larger(1, (kRegisters - smaller(width, 4)) / pixels));
    in_groups<in, group>([&](auto channels, int channel) {
      constexpr int size = channels;
      for (int r = 0; r < height; r++)
        for (int x = start; x < end; x += width) {
          Float sum[pixels][size];
          Float* total = image_gradients + stride * (r * side + x) * in + channel;
#pragma GCC unroll 16
          for (int p = 0; p < pixels; p++)
#pragma GCC unroll 8
            for (int i = 0; i < size; i++) sum[p][i] = total[p * in + i];
          in_groups<out, tile.columns>([&](auto outputs, int first) {
            constexpr int count = outputs;
            const Float* g = gradients + in_band(r * sums + x, first);
            const Float* w = weights + channel * out + first;
            for (int c = 0; c < count; c++) add_column<width, size, count>(sum, g + c, w + c);
          });
#pragma GCC unroll 16
          for (int p = 0; p < pixels; p++)
#pragma GCC unroll 8
            for (int i = 0; i < size; i++) total[p * in + i] = sum[p][i];
        }
    });
  }

  // Adds one output channel's part to the pixels under `width` sums. A pixel takes the terms of the
  // sums from right to left, whichever side is kept in registers.
  template <int width, int size, int count, int pixels>
  ALWAYS_INLINE static void add_column(Float (&sum)[pixels][size], const Float* gradients,
                                       const Float* weights) {
    if constexpr (width <= kernel * size) {
      Float slope[width];
#pragma GCC unroll 8
      for (int p = 0; p < width; p++) slope[p] = gradients[p * count];
#pragma GCC unroll 8
      for (int column = 0; column < kernel; column++)
#pragma GCC unroll 8
        for (int i = 0; i < size; i++) {
          const Float weight = weights[(column * in + i) * out];
#pragma GCC unroll 8
          for (int p = 0; p < width; p++)
            sum[stride * p + column][i] = fma(slope[p], weight, sum[stride * p + column][i]);
        }
    } else {
      Float weight[kernel][size];
#pragma GCC unroll 8
      for (int column = 0; column < kernel; column++)
#pragma GCC unroll 8
        for (int i = 0; i < size; i++) weight[column][i] = weights[(column * in + i) * out];
#pragma GCC unroll 8
      for (int p = width - 1; p >= 0; p--) {
        const Float slope = gradients[p * count];
#pragma GCC unroll 8
        for (int column = 0; column < kernel; column++)
#pragma GCC unroll 8
          for (int i = 0; i < size; i++)
            sum[stride * p + column][i] =
                fma(slope, weight[column][i], sum[stride * p + column][i]);
      }
    }
  }
};

// `Input` is a pointer, or anything that has the input's elements by [].
template <int in, int out>
struct Linear {
  template <class Input>
  static void forward(const Float* weights, const Float* biases, const Input& input,
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

  template <class Input>
  static void forward(const Float* weights, const Float* biases, const Input& input,
                      Float* outputs, NoNoise) {
    forward(weights, biases, input, outputs);
  }

  template <class Input>
  static void forward(const Float* weights, const Float* biases, const Input& input,
                      Float* outputs, const Noise& noise) {
    const int early = noise.unit % 4;  // units are drawn by fours
    Float drawings[out + 6], variances[out], *normals = drawings + early;
    noise.normals.draw_units(drawings, noise.unit - early, (early + out + 3) / 4 * 4);
    forward(weights, biases, input, outputs);
    forward(noise.variances, noise.bias_variances, noise.squares, variances);
    for (int o = 0; o < out; o++) {
      const Float deviation = Noise::deviation(variances[o]);
      outputs[o] = fma(deviation, normals[o], outputs[o]);
      noise.spreads[o] = Noise::spread(deviation, normals[o]);
    }
  }

  // The gradients of the input are left out if the pointer is null.
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
      if (input_gradients) input_gradients[i] = sum;
    }
  }

  // The same for `count` samples whose arrays lie `apart` vectors from each other: weights larger
  // than the cache come from memory once, not once a sample. Each sum takes its terms in the order
  // in which the functions above take them.
  static constexpr Tile tile = best_tile(4, out, 1);
  static constexpr int rows = larger(8, 65536 / int(sizeof(Float)) / out);  // of weights in a block

  NOINLINE static void forward_together(const Float* weights, const Float* biases,
                                        const Float* inputs, Float* outputs, long apart,
                                        int count) {
    for (int s = 0; s < count; s++) std::memcpy(outputs + s * apart, biases, out * sizeof(Float));
    for (int start = 0; start < in; start += rows) {
      const int end = smaller(in, start + rows);
      for_samples(count, [&](auto samples, int s) {
        constexpr int n = samples;
        const Float* input = inputs + s * apart;
        in_groups<out, tile.columns>([&](auto columns, int first) {
          constexpr int size = columns;
          Float sum[n][size];
          Float* output = outputs + s * apart + first;
#pragma GCC unroll 4
          for (int p = 0; p < n; p++)
#pragma GCC unroll 8
            for (int o = 0; o < size; o++) sum[p][o] = output[p * apart + o];
#pragma GCC unroll 2
          for (int i = start; i < end; i++) {
            add_outer_product(
                sum, [&](int p) { return input[p * apart + i]; },
                [&](int o) { return weights[i * out + first + o]; });
          }
#pragma GCC unroll 4
          for (int p = 0; p < n; p++)
#pragma GCC unroll 8
            for (int o = 0; o < size; o++) output[p * apart + o] = sum[p][o];
        });
      });
    }
  }

  NOINLINE static void backward_together(const Float* weights, Float* weight_gradients,
                                         Float* bias_gradients, const Float* inputs,
                                         Float* input_gradients, const Float* gradients, long apart,
                                         int count) {
    for (int s = 0; s < count; s++)
      for (int o = 0; o < out; o++) bias_gradients[o] += gradients[s * apart + o];
    in_groups<in, tile.rows>([&](auto terms, int i) {
      constexpr int height = terms;
      in_groups<out, tile.columns>([&](auto columns, int first) {
        constexpr int size = columns;
        Float sum[height][size];
        Float* total = weight_gradients + i * out + first;
#pragma GCC unroll 8
        for (int t = 0; t < height; t++)
#pragma GCC unroll 8
          for (int o = 0; o < size; o++) sum[t][o] = total[t * out + o];
#pragma GCC unroll 2
        for (int s = 0; s < count; s++) {
          add_outer_product(
              sum, [&](int t) { return inputs[s * apart + i + t]; },
              [&](int o) { return gradients[s * apart + first + o]; });
        }
#pragma GCC unroll 8
        for (int t = 0; t < height; t++)
#pragma GCC unroll 8
          for (int o = 0; o < size; o++) total[t * out + o] = sum[t][o];
      });
      if (!input_gradients) return;
      for_samples(count, [&](auto samples, int s) {
        constexpr int n = samples;
        Float sum[n][height];
#pragma GCC unroll 4
        for (int p = 0; p < n; p++)
#pragma GCC unroll 8
          for (int t = 0; t < height; t++) sum[p][t] = all(0.0f);
#pragma GCC unroll 2
        for (int o = 0; o < out; o++) {
          add_outer_product(
              sum, [&](int p) { return gradients[(s + p) * apart + o]; },
              [&](int t) { return weights[(i + t) * out + o]; });
        }
#pragma GCC unroll 4
        for (int p = 0; p < n; p++)
#pragma GCC unroll 8
          for (int t = 0; t < height; t++) input_gradients[(s + p) * apart + i + t] = sum[p][t];
      });
    });
  }

  // Calls body(size, start) for `count` samples in groups of `tile.rows`, the last one smaller.
  template <class Body>
  ALWAYS_INLINE static void for_samples(int count, Body body) {
    int s = 0;
    for (; s + tile.rows <= count; s += tile.rows)
      body(std::integral_constant<int, tile.rows>{}, s);
    if constexpr (tile.rows > 3)
      if (count - s == 3) body(std::integral_constant<int, 3>{}, s);
    if constexpr (tile.rows > 2)
      if (count - s == 2) body(std::integral_constant<int, 2>{}, s);
    if constexpr (tile.rows > 1)
      if (count - s == 1) body(std::integral_constant<int, 1>{}, s);
  }
};

}  // namespace networks
