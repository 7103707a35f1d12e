/*!
 * \file kernel_table.cc
 * \brief A serialised OpenCL module, and with it the reader that NPU modules and caches share.
 */
#include "src/opencl/kernel_table.h"

#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return hetero_tvm::fuzz::Allowed([&] {
    using hetero_tvm::runtime::opencl::KernelTable;
    const auto table = KernelTable::Parse({reinterpret_cast<const char*>(data), size});
    for (const auto& [name, info] : table->kernels()) {
      for (const auto& [index, image] : info.images) {
        // What the runtime holds against the memory that it is given.
        hetero_tvm::fuzz::Require(image.pixels > 0 && image.pixels <= size_t{1} << 30U);
        hetero_tvm::fuzz::Require(image.pixel_bytes >= 8 && image.pixel_bytes <= 16);
      }
    }
    // What was understood is written and read again as it was.
    const std::string written = table->Serialize();
    hetero_tvm::fuzz::Require(KernelTable::Parse(written)->Serialize() == written);
  });
}
