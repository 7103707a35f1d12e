/*!
 * \file npu/npu_module.h
 * \brief TVM module kind "hetero_npu": NPU regions as functions.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_NPU_MODULE_H_
#define HETERO_TVM_RUNTIME_NPU_NPU_MODULE_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/extra/module.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../counters.h"
#include "ort_session.h"
#include "region.h"

namespace hetero_tvm::runtime::npu {

/*! \brief What a module needs of the process; all of it outlives every module. */
struct NpuServices {
  OrtEnvironment& environment;
  Counters& counters;
  std::function<void()> wait_for_gpu;  // returns once queued GPU work is done
};

/*!
 * \brief Regions, each callable as `<symbol>(inputs..., outputs...)`.
 *
 * A call waits for queued GPU work, runs on the tensors' own memory, and returns when the outputs
 * are written.
 *
 * Wire format: "hetero_npu 1", JSON header (region.h), one model per region, all length-prefixed.
 */
class NpuModule : public tvm::ffi::ModuleObj {
 public:
  static constexpr const char* kKind = "hetero_npu";

  NpuModule(const NpuServices& services, const tvm::ffi::String& header,
            std::vector<std::string> models);

  static tvm::ffi::Module Create(const NpuServices& services, const tvm::ffi::String& header,
                                 const tvm::ffi::Array<tvm::ffi::Bytes>& models);
  static tvm::ffi::Module Load(const NpuServices& services, const tvm::ffi::Bytes& bytes);

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final {
    return tvm::ffi::Module::kBinarySerializable | tvm::ffi::Module::kRunnable;
  }
  tvm::ffi::Bytes SaveToBytes() const final;
  tvm::ffi::String InspectSource(const tvm::ffi::String&) const final { return header_; }
  bool ImplementsFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;

  /*! \brief Build every session now rather than at the first call. */
  void Prepare();

 private:
  void Run(RegionSession& session, tvm::ffi::PackedArgs args);

  const NpuServices& services_;
  const std::string header_;
  std::vector<std::string> models_;  // regions_ point into it; constant once made
  std::vector<Region> regions_;      // sessions_ refer to it; constant once made
  std::unordered_map<std::string, std::unique_ptr<RegionSession>> sessions_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_NPU_MODULE_H_
