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
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../counters.h"
#include "../fallbacks.h"
#include "../sync_options.h"
#include "../trace.h"
#include "durable_session.h"
#include "ort_session.h"
#include "region.h"
#include "region_session.h"
#include "targets.h"
#include "worker.h"

namespace hetero_tvm::runtime::npu {

/*! \brief What a module needs of the process; all of it outlives every module. */
struct NpuServices {
  OrtEnvironment& environment;
  NpuHealth& health;
  Fallbacks& fallbacks;
  Counters& counters;
  const SyncOptions& options;
  Trace& trace;
  Worker& worker;
  std::function<uint64_t()> gpu_ticket;            // of the GPU work that the next job needs done
  std::function<void(uint64_t)> wait_for_gpu;      // returns once it is
  std::function<uint64_t()> ticket_of_all_of_gpu;  // of everything queued so far
};

/*!
 * \brief Regions, each callable as `<symbol>(inputs..., outputs...)`.
 *
 * A call checks its tensors, gives the worker a job that keeps them and works on their own memory,
 * and returns. It returns only when the outputs are written if nobody could wait for them: with
 * tensors of the device `cpu`, which TVM reads without asking, and with plain DLTensors, which can
 * be gone any time.
 *
 * Regions that were compiled for several targets have the binary of the one that this machine is
 * (targets.h). Where it is none, or the NPU cannot be used at all, substitutes do the regions' work
 * if the user allows it (Fallbacks); else the error says what is missing.
 *
 * Wire format: "hetero_npu 1", JSON header (region.h, targets.h), a model for each region but those
 * that are made of pieces, one more for each that has a substitute, then the contents of the
 * header's files, contexts and pieces, all length-prefixed.
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

  /*!
   * \brief Let regions find what weights of theirs lie in the artefact at `path`; see WeightPart.
   *
   * Does nothing where they have none there.
   */
  void MapWeights(const std::string& path, uint64_t offset, uint64_t bytes);

  /*! \brief Build every session now rather than at the first call, but those on standby. */
  void Prepare();

 private:
  std::unique_ptr<RegionSession> MakeSession(const Region& region);
  void Run(RegionSession& session, tvm::ffi::PackedArgs args);
  void Choose();
  void PrepareOne(RegionSession& session);
  void Replace(const tvm::ffi::Error& why);

  const NpuServices& services_;
  const std::string header_;
  std::vector<std::string>
      models_;  // substitutes, files; regions_ point into it; constant once made
  const std::shared_ptr<WeightPart> part_ = std::make_shared<WeightPart>();
  std::vector<Region> regions_;           // sessions_ refer to it; constant once made
  std::vector<std::string_view> pieces_;  // into models_
  std::vector<std::string> chosen_;       // models of this machine's target; regions_ point into it
  std::optional<tvm::ffi::Error> no_target_;  // why there is none for this machine
  std::mutex replacing_;  // guards is_replaced_; taken while substitutes are put in
  bool is_replaced_ = false;
  std::unordered_map<std::string, Region> substitutes_;  // by symbol; constant once made
  std::unordered_map<std::string, std::unique_ptr<RegionSession>> sessions_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_NPU_MODULE_H_
