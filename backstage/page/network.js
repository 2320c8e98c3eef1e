"use strict";
// The network of lessons 3 and 4, once more: the weights that lesson 3 found, the same sums, and
// the same five steps to go on learning. An image is 28 rows of 28 normalized pixels.

const data = JSON.parse(document.getElementById("data").textContent);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const floats = (base64) => new Float32Array(bytes(base64).buffer); // 4 bytes to a number

// Layers as PyTorch keeps them: a row of weights and a bias for each neuron.
const makeLayer = ({ weight, bias }) => ({ weight: weight.map(floats), bias: floats(bias) });
const [fc1, fc2] = data.layers.map(makeLayer);
const gradients = { fc1: structuredClone(fc1), fc2: structuredClone(fc2) };

// SimpleNN.forward of lesson 4, line by line.
function forward(image) {
  const x = image.flat(); //              flatten: [28, 28] -> [784]
  const sums = linear(fc1, x); //         fc1:     [784] -> [128]
  const hidden = relu(sums); //           relu:    [128] -> [128]
  const logits = linear(fc2, hidden); //  fc2:     [128] -> [10]
  return { x, sums, hidden, logits };
}
const linear = ({ weight, bias }, x) => weight.map((row, i) => dot(row, x) + bias[i]);
const relu = (sums) => sums.map((sum) => Math.max(0, sum));

function dot(row, x) {
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += row[i] * x[i];
  return sum;
}

// The shares of the ten classes. Taking the largest logit from all of them changes no share, and
// keeps exp() from growing beyond what a number can hold.
function softmax(logits) {
  const powers = logits.map((logit) => Math.exp(logit - Math.max(...logits)));
  return powers.map((power) => power / sum(powers));
}

// CrossEntropyLoss: minus the logarithm of the share of the right class. Written with logits, so
// that a share too small for a number does no harm.
function crossEntropy(logits, label) {
  const most = Math.max(...logits);
  return Math.log(sum(logits.map((logit) => Math.exp(logit - most)))) + most - logits[label];
}

// How the loss would change if a logit, a sum, a weight grew a little: from the last layer to the
// first. `part` is what this example counts in the mean over its batch.
function backward({ x, sums, hidden, logits }, label, part) {
  // A logit: its share; of the right class, its share minus 1.
  const byLogit = softmax(logits).map((share, i) => part * (i === label ? share - 1 : share));
  addGradients(gradients.fc2, byLogit, hidden);
  // A lit neuron acts on all ten logits. ReLU lets nothing of a dark one through, so nothing
  // comes back to it, either: all its gradients are 0.
  const bySum = sums.map((sum, neuron) =>
    sum > 0 ? dot(byLogit, fc2.weight.map((row) => row[neuron])) : 0,
  );
  addGradients(gradients.fc1, bySum, x);
}

// A weight multiplies its input, so its gradient is that of the sum times the input.
function addGradients({ weight, bias }, bySum, inputs) {
  bySum.forEach((slope, neuron) => {
    bias[neuron] += slope;
    if (slope !== 0) addTo(weight[neuron], slope, inputs);
  });
}
function addTo(row, factor, others) {
  for (let i = 0; i < row.length; i++) row[i] += factor * others[i];
}

// Plain SGD, torch.optim.SGD(model.parameters(), lr=rate): against the gradient.
function step(layer, { weight, bias }, rate) {
  layer.weight.forEach((row, neuron) => addTo(row, -rate, weight[neuron]));
  addTo(layer.bias, -rate, bias);
}

// The five steps of lesson 3, for a batch of examples { pixels, label }.
function train(batch, rate) {
  // Step 1, zero_grad: forget the gradients of the previous batch.
  for (const { weight, bias } of [gradients.fc1, gradients.fc2]) {
    [...weight, bias].forEach((row) => row.fill(0));
  }
  // Step 2, forward: let the network answer.
  const results = batch.map(({ pixels }) => forward(pixels));
  // Step 3, loss: one number that says how wrong the answers are.
  const losses = results.map(({ logits }, i) => crossEntropy(logits, batch[i].label));
  const loss = sum(losses) / batch.length;
  // Step 4, backward: for every weight, compute its gradient.
  results.forEach((result, i) => backward(result, batch[i].label, 1 / batch.length));
  // Step 5, step: move every weight a little in the direction that lowers the loss.
  step(fc1, gradients.fc1, rate);
  step(fc2, gradients.fc2, rate);
  return { results, loss };
}

// Where does a digit's logit come from? ReLU passes on the sums of lit neurons as they are, and
// nothing of the others. So for this one drawing the network is a plain weighted sum of pixels:
// what it would be on a blank page (start), and what the ink of each pixel adds to that.
function evidence({ x, sums }, digit) {
  const voices = fc2.weight[digit].map((weight, neuron) => (sums[neuron] > 0 ? weight : 0));
  const pull = x.map(() => 0); // the weight of each pixel in that sum
  voices.forEach((voice, neuron) => addTo(pull, voice, fc1.weight[neuron]));
  const start = fc2.bias[digit] + dot(voices, fc1.bias) + data.paper * sum(pull);
  return { start, pixels: pull.map((weight, i) => weight * (x[i] - data.paper)) };
}
