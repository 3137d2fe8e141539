// Where the numbers of one architecture lie, for every kernel. architecture.hpp, which header.py
// writes from builders/layout.py, holds the specification: the image, the layers, the activation.
//
// Images and activations are [row][column][channel], convolution weights [row][column][in][out],
// linear weights [in][out].

#pragma once

#include "elementwise.hpp"

namespace networks {

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

struct Layer {
  int out;
  int kernel;  // 0: linear
  bool pool, activation, dropout;
  int stride = 1, padding = 0;
  bool gap = false;  // the average over all places follows
};

// The activation behind a layer, if any: its own, for which architecture.hpp has a specialisation, or
// that of the model.
template <int layer>
struct Own;

#include "architecture.hpp"

template <int layer>
struct Own {
  using type = Activation;
};

// Where a layer's numbers lie: its tensors among the weights, its input and output among the values
// of one sample, the routes of its pooling, its dropout units, its normal numbers.
struct Place {
  int in, in_side, out, side;  // channels and side of the image; side 1 after a linear layer
  int weights, biases, input, output, routes, units, normals;
  int source;  // where the input comes from, if it must be padded or averaged first; else `input`
  constexpr int outputs() const { return out * side * side; }
};

constexpr int kDepth = sizeof(kLayers) / sizeof(kLayers[0]);

struct Places {
  Place at[kDepth + 1];
  constexpr const Place& operator[](int i) const { return at[i]; }
};

constexpr Places place_layers() {
  Places places{};
  Place at{kChannels, kSide, 0, 0, 0, 0, 0, kChannels * kSide * kSide, 0, 0, 0, 0};
  for (int i = 0; i < kDepth; i++) {
    const Layer& layer = kLayers[i];
    at.out = layer.out;
    at.source = at.input;
    if (i > 0 && kLayers[i - 1].gap) at.in_side = 1;
    at.in_side += 2 * layer.padding;
    if (layer.padding || (i > 0 && kLayers[i - 1].gap)) {
      at.input = at.output;
      at.output += at.in * at.in_side * at.in_side;
    }
    const int sums = layer.kernel ? (at.in_side - layer.kernel) / layer.stride + 1 : 1;  // in a row
    at.side = sums / (layer.pool ? 2 : 1);
    const int window = layer.kernel ? layer.kernel : at.in_side;  // a linear layer sees the image
    at.biases = at.weights + window * window * at.in * at.out;
    places.at[i] = at;
    at.weights = at.biases + at.out;
    at.routes += layer.pool ? at.outputs() : 0;
    at.units += layer.dropout ? at.outputs() : 0;
    at.normals += sums * sums * at.out;
    at.input = at.output;
    at.output += at.outputs();
    at.in = at.out;
    at.in_side = at.side;
  }
  places.at[kDepth] = at;  // the ends of everything
  return places;
}

constexpr auto kPlaces = place_layers();
constexpr Place kEnd = kPlaces[kDepth];
constexpr int kWeights = kEnd.weights, kPixels = kChannels * kSide * kSide;
constexpr int kClasses = kLayers[kDepth - 1].out, kLogits = kEnd.input;
constexpr int kSeenSide = kPlaces[0].in_side, kSeen = kChannels * kSeenSide * kSeenSide;

constexpr int first_linear() {
  int i = 0;
  while (kLayers[i].kernel) i++;
  return i;
}
constexpr int kFirstLinear = first_linear();

template <bool>
struct Either {
  template <class Yes, class No>
  using type = Yes;
};
template <>
struct Either<false> {
  template <class Yes, class No>
  using type = No;
};
template <int i>
using Activated =
    typename Either<kLayers[i].activation>::template type<typename Own<i>::type, activations::none>;

// A dropout unit's number: torch's order of a layer's outputs is channel, row, column.
template <int i>
inline int unit(int element) {
  constexpr Place at = kPlaces[i];
  return at.units + element % at.out * (at.side * at.side) + element / at.out;
}

// Whether slopes must be kept: what dropout has gone over no longer gives them.
template <int i>
constexpr bool kKeepsSlope = Activated<i>::keeps_slope || kLayers[i].dropout;

// Whether a layer's input must be made of what lies before it: padded, or averaged over all places.
template <int i>
constexpr bool kAdapted = kPlaces[i].source != kPlaces[i].input;
template <int i>
constexpr bool kAveraged = kAdapted<i> && kLayers[i].kernel == 0;

// In which order sums take their terms, where it is not that of the loops themselves: on the way back
// a convolution goes through its sums in bands of rows, and in a row in strips. Every kernel keeps to
// this order, so that they give the same bits.
constexpr int band_rows(bool pool, int sums, int out) {
  return pool ? 2 : smaller(sums, larger(1, 1024 / (sums * out)));
}
constexpr int strip_width(int sums) { return smaller(4, sums); }

}  // namespace networks
