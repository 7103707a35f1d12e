/*!
 * \file npu/ort_session.h
 * \brief ONNX Runtime as the NPU: one environment, and one session per region.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_
#define HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../counters.h"
#include "../settings.h"
#include "ort_api.h"
#include "region.h"
#include "region_session.h"

namespace hetero_tvm::runtime::npu {

/*! \brief What all sessions share. Loads ONNX Runtime and the QNN plug-in when first needed. */
class OrtEnvironment {
 public:
  OrtEnvironment(const Settings& settings, Counters& counters)
      : settings_(settings), counters_(counters) {}

  /*! \brief ONNX Runtime's functions. Throws EnvironmentProblem when it is not installed. */
  const OrtApi& Api();

  /*! \brief A session for `region`. Throws DeviceFailure naming the region. */
  OrtHandle<OrtSession> CreateSession(const Region& region);

  const OrtMemoryInfo* host_memory() const { return host_memory_.Get(); }

  const Settings& settings() const { return settings_; }

 private:
  void OpenLocked();
  void AddFiles(OrtSessionOptions* options, const Region& region);
  void AppendQnn(OrtSessionOptions* options, const Region& region);
  std::vector<const OrtEpDevice*> QnnDevices();

  const Settings& settings_;
  Counters& counters_;
  std::mutex qnn_mutex_;  // taken while a session of Qualcomm's provider is built
  std::mutex mutex_;      // guards everything below; not held while sessions are built
  std::unique_ptr<const OrtApi> api_;
  OrtHandle<OrtEnv> env_;
  OrtHandle<OrtMemoryInfo> host_memory_;
  bool has_qnn_ = false;                         // the plug-in is registered with env_
  std::vector<const OrtEpDevice*> qnn_devices_;  // owned by env_
};

/*! \brief One region as an ONNX Runtime session. */
class OrtRegionSession : public RegionSession {
 public:
  OrtRegionSession(OrtEnvironment& environment, const Region& region);

  void Prepare() final;
  void Run(const std::vector<const DLTensor*>& tensors) final;

 private:
  /*! \brief The tensor that a slot was last bound to; bound again only when its address changes. */
  struct Binding {
    const TensorSpec* spec;
    const void* data = nullptr;
    OrtHandle<OrtValue> value;
  };

  void Bind(Binding& binding, const DLTensor& tensor);

  OrtEnvironment& environment_;
  std::mutex mutex_;  // guards the making of session_; taken by Prepare() until it is made
  std::atomic<bool> is_ready_{false};
  OrtHandle<OrtSession> session_;
  std::vector<Binding> bindings_;  // inputs, then outputs; of the thread that runs
  std::vector<const char*> names_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_
