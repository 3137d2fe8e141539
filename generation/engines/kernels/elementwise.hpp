// What is done with each number alone: the activations, the loss of a sample, the optimizers.
// `Float` and `Int` are vectors or single numbers, as arithmetic.hpp says.

#pragma once

#include "arithmetic.hpp"

namespace networks {

// The activations, under their names in builders/hyperparameters.py: the value y = activation(x);
// the slope dy/dx, which is kept for the way back; and `backward`, the gradient before the
// activation from the one behind it. Where y alone gives the slope, nothing is kept, which spares
// the caches a third of what a sample needs: these have `slope` as a function of y.
namespace activations {

struct FromValue {
  static constexpr bool keeps_slope = false;
  Float value;
  static Float backward(Float gradient, Float slope) { return gradient * slope; }
};

struct none : FromValue {
  explicit none(Float x) : FromValue{x} {}
  static Float slope(Float) { return all(1.0f); }
  static Float backward(Float gradient, Float) { return gradient; }
};

struct tanh : FromValue {
  explicit tanh(Float x) : FromValue{networks::tanh(x)} {}
  static Float slope(Float value) { return fma(-value, value, all(1.0f)); }
};

struct relu : FromValue {
  explicit relu(Float x) : FromValue{x <= 0.0f ? all(0.0f) : x} {}  // so that NaN stays NaN
  static Float slope(Float value) { return value <= 0.0f ? all(0.0f) : all(1.0f); }
  // A dead unit stops even NaN, as in torch.
  static Float backward(Float gradient, Float slope) {
    return slope == 0.0f ? all(0.0f) : gradient;
  }
};

struct sigmoid : FromValue {
  explicit sigmoid(Float x) : FromValue{1.0f / (1.0f + exp(-x))} {}
  static Float slope(Float value) { return value * (1.0f - value); }
};

struct Smooth {
  static constexpr bool keeps_slope = true;
  Float value, slope;
  static Float backward(Float gradient, Float slope) { return gradient * slope; }
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

struct elu : Smooth {
  explicit elu(Float x) {
    const ReducedExp e(x < -87.0f ? all(-87.0f) : x > 0.0f ? all(0.0f) : x);
    const Float expm1 = fma(e.expm1, e.power, e.power - 1.0f);
    value = x > 0.0f ? x : expm1;
    slope = x > 0.0f ? all(1.0f) : expm1 + 1.0f;
  }
};

struct leaky_relu : Smooth {
  explicit leaky_relu(Float x) {
    value = x > 0.0f ? x : x * 0.01f;
    slope = x > 0.0f ? all(1.0f) : all(0.01f);
  }
};

struct silu : Smooth {
  explicit silu(Float x) {
    const Float share = 1.0f / (1.0f + exp(-x));
    value = x * share;
    slope = share * fma(x, 1.0f - share, all(1.0f));
  }
};

// log(1 + e^x), and x itself above 20 as in torch.
struct softplus : Smooth {
  explicit softplus(Float x) {
    const Float e = exp(x > 20.0f ? all(20.0f) : x), one_more = e + 1.0f;
    const Float small = log(one_more) * (e / (one_more - 1.0f));  // of log(1 + e): exact to 1 ulp
    value = x > 20.0f ? x : one_more == 1.0f ? e : small;
    slope = x > 20.0f ? all(1.0f) : e / one_more;
  }
};

struct identity : none {
  using none::none;
};

}  // namespace activations

// -log softmax(logits)[label]; the logits become their gradient times `share`. NaN in a logit makes
// everything NaN; the prediction is then, as in torch, the first NaN.
template <int classes>
struct LogSoftmaxNll {
  Float loss;
  Int correct;  // true where the prediction is the label: in a vector -1 (all bits), else 1
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

// The optimizers of torch.optim. What one step needs: the learning rates of this step in double, as
// torch has them; the momentum, which for Adam is beta1; and Adam's corrections for the first steps,
// 1 - beta1^step and sqrt(1 - 0.999^step), step = 1, 2, ...
struct Pace {
  double learning_rates[kLanes];
  double beta1, mean_correction, root_correction;
  Float weight_decay, momentum;
};

// Betas (0.9, 0.999), eps 1e-8 and the weight decay as L2 term.
struct Adam {
  Float step_size, weight_decay;
  float inverse_root, rest;
  explicit Adam(const Pace& pace)
      : step_size(each_lane([&](int lane) {
          return float(pace.learning_rates[lane] / pace.mean_correction);
        })),
        weight_decay(pace.weight_decay),
        inverse_root(float(1 / pace.root_correction)),
        rest(float(1 - pace.beta1)) {}
  void operator()(Float& weight, Float gradient, Float& mean, Float& square) const {
    gradient = fma(weight_decay, weight, gradient);
    mean = fma(gradient - mean, all(rest), mean);
    square = fma(gradient * 0.001f, gradient, square * 0.999f);
    weight -= step_size * mean / fma(sqrt(square), all(inverse_root), all(1e-8f));
  }
};

// The weights themselves decay.
struct AdamW : Adam {
  Float kept;
  explicit AdamW(const Pace& pace)
      : Adam(pace), kept(each_lane([&](int lane) {
          return float(1 - pace.learning_rates[lane] * double(lane_of(weight_decay, lane)));
        })) {
    weight_decay = all(0.0f);
  }
  void operator()(Float& weight, Float gradient, Float& mean, Float& square) const {
    weight *= kept;
    Adam::operator()(weight, gradient, mean, square);
  }
};

// With momentum, without dampening; the weight decay as L2 term.
struct Sgd {
  Float learning_rate, weight_decay, momentum;
  explicit Sgd(const Pace& pace)
      : learning_rate(each_lane([&](int lane) { return float(pace.learning_rates[lane]); })), weight_decay(pace.weight_decay), momentum(pace.momentum) {}
  void operator()(Float& weight, Float gradient, Float& velocity, Float&) const {
    gradient = fma(weight_decay, weight, gradient);
    velocity = fma(momentum, velocity, gradient);
    weight = fma(-learning_rate, velocity, weight);
  }
};

struct Nesterov : Sgd {
  using Sgd::Sgd;
  void operator()(Float& weight, Float gradient, Float& velocity, Float&) const {
    gradient = fma(weight_decay, weight, gradient);
    velocity = fma(momentum, velocity, gradient);
    weight = fma(-learning_rate, fma(momentum, velocity, gradient), weight);
  }
};

// alpha 0.99, eps 1e-8, not centred; a momentum where the schedule has one.
struct RmsProp : Sgd {
  using Sgd::Sgd;
  void operator()(Float& weight, Float gradient, Float& velocity, Float& square) const {
    gradient = fma(weight_decay, weight, gradient);
    square = fma(gradient * 0.01f, gradient, square * 0.99f);
    velocity = fma(momentum, velocity, gradient / (sqrt(square) + 1e-8f));
    weight = fma(-learning_rate, velocity, weight);
  }
};

// Calls function(optimizer) with the optimizer of this number, which is that of kernels/arguments.py;
// returns false where there is none.
template <class Function>
[[nodiscard]] inline bool with_optimizer(int number, const Pace& pace, Function function) {
  switch (number) {
    case 0: return function(Sgd(pace)), true;
    case 1: return function(Adam(pace)), true;
    case 2: return function(AdamW(pace)), true;
    case 3: return function(Nesterov(pace)), true;
    case 4: return function(RmsProp(pace)), true;
    default: return false;
  }
}

}  // namespace networks
