/*!
 * \file npu/targets.h
 * \brief Which of the chips that a module was compiled for this machine is.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_TARGETS_H_
#define HETERO_TVM_RUNTIME_NPU_TARGETS_H_

#include <tvm/ffi/string.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "../settings.h"

namespace hetero_tvm::runtime::npu {

/*! \brief One chip that NPU regions were compiled for. */
struct NpuTarget {
  std::string name;  // of the target, as `build --target` takes it
  std::string soc;
  int64_t htp_arch;
  std::vector<int64_t> soc_ids;                // what kernels call it; empty: any
  std::map<std::string, std::string> options;  // of the provider, for its regions
};

/*!
 * \brief The header's targets, in order; none where it names none.
 *
 *   {"targets": [{"name": "snapdragon-8-gen-3", "soc": "SM8650", "htp_arch": 75,
 *                 "soc_ids": [557], "options": {"soc_model": "57"}}], "regions": ...}
 *
 * Throws ValueError saying what is wrong.
 */
std::vector<NpuTarget> ParseTargets(const tvm::ffi::String& json);

/*! \brief The number of this machine's SoC: of `device.soc_id`, else its kernel's; none elsewhere.
 */
std::optional<int64_t> SocId(const Settings& settings);

/*!
 * \brief The index of the target that this machine is: the one that `npu.target` names, else the
 * one of its SoC; the first where no kernel says what it is, as on a simulator.
 *
 * Throws ValueError naming all of them where it is none. Requires: there is one.
 */
size_t PickTarget(const std::vector<NpuTarget>& targets, const Settings& settings);

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_TARGETS_H_
