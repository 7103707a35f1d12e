/*!
 * \file npu_header.cc
 * \brief The description of an NPU module: its regions, files and targets.
 */
#include "fuzz.h"
#include "src/npu/region.h"
#include "src/npu/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace npu = hetero_tvm::runtime::npu;
  const tvm::ffi::String text(reinterpret_cast<const char*>(data), size);
  for (const char* list : {"files", "contexts", "pieces"}) {
    hetero_tvm::fuzz::Allowed([&] { npu::ParseNames(text, list); });
  }
  hetero_tvm::fuzz::Allowed([&] { npu::ParseTargets(text); });
  return hetero_tvm::fuzz::Allowed([&] {
    for (const npu::Region& region : npu::ParseRegions(text)) {
      for (const npu::TensorSpec& input : region.inputs) {
        hetero_tvm::fuzz::Require(input.bytes <= uint64_t{1} << 40);
      }
      for (const npu::OutsideWeight& weight : region.outside) {
        hetero_tvm::fuzz::Require(weight.offset < uint64_t{1} << 63);
      }
    }
  });
}
