/*!
 * \file npy.cc
 * \brief An array in numpy's format, for an input of the shape that the first byte chooses.
 */
#include "device/npy.h"

#include <sstream>

#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using hetero_tvm::runtime::BorderTensor;
  static const BorderTensor kTensors[] = {
      {"x", "float32", {kDLFloat, 32, 1}, {2, 3}, {}, 24},
      {"x", "int8", {kDLInt, 8, 1}, {5}, {}, 5},
      {"x", "bool", {kDLBool, 8, 1}, {}, {}, 1},
      {"x", "float16", {kDLFloat, 16, 1}, {0, 4}, {}, 0},
  };
  if (size == 0) return 0;
  const BorderTensor& tensor = kTensors[data[0] % 4];
  std::istringstream file(std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return hetero_tvm::fuzz::Allowed([&] {
    const std::string read = hetero_tvm::device::ReadNpy(file, "x.npy", tensor);
    hetero_tvm::fuzz::Require(read.size() == tensor.bytes);
  });
}
