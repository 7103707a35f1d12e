/*!
 * \file npu_header.cc
 * \brief The description of an NPU module's regions.
 */
#include "fuzz.h"
#include "src/npu/region.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace npu = hetero_tvm::runtime::npu;
  const tvm::ffi::String text(reinterpret_cast<const char*>(data), size);
  hetero_tvm::fuzz::Allowed([&] { npu::ParseNames(text, "files"); });
  return hetero_tvm::fuzz::Allowed([&] {
    for (const npu::Region& region : npu::ParseRegions(text)) {
      for (const npu::TensorSpec& input : region.inputs) {
        hetero_tvm::fuzz::Require(input.bytes <= uint64_t{1} << 40);
      }
    }
  });
}
