/*!
 * \file npu/durable_session.h
 * \brief A region whose work goes on when the NPU fails.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_DURABLE_SESSION_H_
#define HETERO_TVM_RUNTIME_NPU_DURABLE_SESSION_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../counters.h"
#include "ort_session.h"
#include "region_session.h"

namespace hetero_tvm::runtime::npu {

/*! \brief What is known of the NPU as a whole. */
struct NpuHealth {
  std::atomic<bool> is_lost{false};  // something never came back: nobody asks it any more
};

/*!
 * \brief ONNX Runtime behind a region, made anew when it fails, and moved to the CPU when that
 * fails too.
 *
 * A session that cannot be made, or a run that fails, is tried once more with a fresh session; then
 * the region's work is done by its substitute, a session of ONNX Runtime's CPU provider, for as
 * long as the process lives, and one line on standard error says so. A session that is not made
 * within the limit (Watch::Limit) is given up, and with it the NPU. Where there is no substitute,
 * or it fails as well, the failure is thrown. So is the failure of a region of Qualcomm's NPU that
 * has never run: that device may not be the one that it was built for, and whether another may do
 * its work is for the user to say (Replace).
 */
class DurableSession : public RegionSession {
 public:
  using Keep = std::function<std::shared_ptr<void>()>;

  /*!
   * \param substitute The region for the CPU provider; null: there is none.
   * \param keep Something that keeps the regions alive, for threads that may never end.
   */
  DurableSession(OrtEnvironment& environment, Counters& counters, NpuHealth& health,
                 const Region& region, const Region* substitute, Keep keep);

  void Prepare() final { Ready(); }
  void Run(const std::vector<const DLTensor*>& tensors) final;

  /*! \brief Have the substitute do the work from now on; no word is said. There is one. */
  void Replace();

  bool IsLimited() const final;
  void Abandon(const std::string& why) final;

 private:
  std::shared_ptr<RegionSession> Ready();
  std::shared_ptr<RegionSession> Open(const Region& region);
  void Drop(const std::shared_ptr<RegionSession>& session);
  bool IsMoved() const { return moved_.load(std::memory_order_acquire); }
  void Move(const std::string& why);
  void TellMoved();
  bool UsesSubstitute() const;

  OrtEnvironment& environment_;
  Counters& counters_;
  NpuHealth& health_;
  const Region* const substitute_;
  const Keep keep_;
  std::mutex opening_;  // taken while a session is made
  std::atomic<bool> moved_{false};
  std::atomic<bool> has_run_{false};
  std::mutex mutex_;                        // guards what follows; taken for a look only
  std::shared_ptr<RegionSession> session_;  // ready to run; null before, and after a failure
  std::string why_moved_;                   // empty once it was told
  uint64_t abandoned_ = 0;                  // how many runs were
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_DURABLE_SESSION_H_
