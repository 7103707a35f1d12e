/*!
 * \file npu/ort_session.h
 * \brief ONNX Runtime as the NPU: one environment, and one session per region.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_
#define HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_

#include <tvm/ffi/container/tensor.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../counters.h"
#include "../settings.h"
#include "ort_api.h"
#include "region.h"

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

  /*! \brief Held during a run on the NPU: a second run would only busy-wait for the first. */
  std::mutex& npu_mutex() { return npu_mutex_; }

 private:
  void OpenLocked();
  void AppendQnn(OrtSessionOptions* options, const Region& region);
  const std::vector<const OrtEpDevice*>& QnnDevicesLocked();

  const Settings& settings_;
  Counters& counters_;
  std::mutex mutex_;  // guards everything below; taken while opening and while building sessions
  std::mutex npu_mutex_;  // guards nothing but the NPU itself
  std::unique_ptr<const OrtApi> api_;
  OrtHandle<OrtEnv> env_;
  OrtHandle<OrtMemoryInfo> host_memory_;
  std::vector<const OrtEpDevice*> qnn_devices_;  // owned by env_
};

/*! \brief One region, ready to run over its callers' own memory. Thread-safe. */
class RegionSession {
 public:
  /*! \param region Must outlive the session. */
  RegionSession(OrtEnvironment& environment, const Region& region);

  /*! \brief Build the session now. Does nothing when that was done. */
  void Prepare();

  /*!
   * \brief Run on `tensors`: the region's inputs, then its outputs, each read or written in place.
   *
   * Throws ValueError when a tensor is not what the region takes, DeviceFailure when the run fails.
   */
  void Run(const std::vector<const DLTensor*>& tensors);

 private:
  /*! \brief The tensor that slot `i` was last bound to; bound again only when its address changes.
   */
  struct Binding {
    const TensorSpec* spec;
    const void* data = nullptr;
    OrtHandle<OrtValue> value;
  };

  void PrepareLocked();
  void Bind(Binding& binding, const DLTensor& tensor);

  OrtEnvironment& environment_;
  const Region& region_;
  std::mutex mutex_;  // guards the session and its bindings; held during a run
  OrtHandle<OrtSession> session_;
  std::vector<Binding> bindings_;  // inputs, then outputs
  std::vector<const char*> names_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_ORT_SESSION_H_
