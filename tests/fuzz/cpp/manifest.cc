/*!
 * \file manifest.cc
 * \brief An artefact's description. A fuzzer guesses no checksum, so they are made right here.
 *
 * First byte: 0 the rest is a whole file, else the rest is the description of one without code;
 * 2: with a page of zeros before it, which may be weights.
 */
#include "src/c_api/manifest.h"

#include <cstring>
#include <sstream>

#include "fuzz.h"
#include "src/c_api/sha256.h"

namespace {

std::string Unhex(const std::string& digits) {
  std::string bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::string SealedFile(const std::string& text) {
  hetero_tvm::runtime::Sha256 digest;
  digest.Add(text.data(), text.size());
  const uint64_t length = text.size();
  std::string count(sizeof(length), '\0');
  std::memcpy(count.data(), &length, sizeof(length));
  return text + Unhex(digest.Finish()) + count + "HETROTVM";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string before(data[0] == 2 ? 4096 : 0, '\0');
  const std::string file = data[0] == 0 ? rest : before + SealedFile(rest);
  return hetero_tvm::fuzz::Allowed([&] {
    std::istringstream stream(file);
    const auto sealed = hetero_tvm::runtime::ReadSealed(stream, file.size());
    const auto& weights = sealed.manifest.weights;
    for (const auto& weight : weights) {
      hetero_tvm::fuzz::Require(weight.place + weight.tensor.bytes <= file.size());
    }
    for (const auto& program : sealed.manifest.programs) {
      for (const size_t index : program.weights) hetero_tvm::fuzz::Require(index < weights.size());
      for (const auto& output : program.outputs) {
        // What the C API indexes with.
        hetero_tvm::fuzz::Require(output.axes.empty() || output.axes.size() == output.shape.size());
        hetero_tvm::fuzz::Require(output.bytes <= uint64_t{1} << 40);
      }
    }
  });
}
