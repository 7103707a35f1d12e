/*!
 * \file npu/region_session.h
 * \brief One NPU region that can be run, whatever runs it.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_REGION_SESSION_H_
#define HETERO_TVM_RUNTIME_NPU_REGION_SESSION_H_

#include <tvm/ffi/container/tensor.h>

#include <string>
#include <vector>

#include "../timeline.h"
#include "region.h"

namespace hetero_tvm::runtime::npu {

/*! \brief ONNX's number for a type; 0 where it has none. */
int OnnxType(DLDataType type);

/*! \brief One region, ready to run over its callers' own memory. */
class RegionSession {
 public:
  /*! \param region Must outlive the session. Throws ValueError for a type that ONNX has not. */
  explicit RegionSession(const Region& region);
  RegionSession(const RegionSession&) = delete;
  RegionSession& operator=(const RegionSession&) = delete;
  virtual ~RegionSession() = default;

  const Region& region() const { return region_; }

  /*!
   * \brief Throw unless `tensors` are the region's inputs, then its outputs: TypeError for their
   * number, ValueError for shape, type, gaps, or a device that the NPU cannot see. Thread-safe.
   */
  void CheckTensors(const std::vector<const DLTensor*>& tensors) const;

  /*! \brief Build what the first run would build. Does nothing when that was done. Thread-safe. */
  virtual void Prepare() = 0;

  /*!
   * \brief Run on `tensors`, each read or written in place; one run at a time.
   *
   * Requires: CheckTensors(tensors). Throws DeviceFailure when the run fails.
   */
  virtual void Run(const std::vector<const DLTensor*>& tensors) = 0;

  /*! \brief Whether a run that takes longer than Watch::Limit() hangs, and is not just slow. */
  virtual bool IsLimited() const { return true; }

  /*! \brief The run that is going on in another thread will never end; later ones need not wait. */
  virtual void Abandon(const std::string& /*why*/) {}

  /*! \brief How long it takes from the moment when it is its turn. */
  Prediction& expected() { return expected_; }

 protected:
  const Region& region_;

 private:
  Prediction expected_;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_REGION_SESSION_H_
