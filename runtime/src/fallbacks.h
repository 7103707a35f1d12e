/*!
 * \file fallbacks.h
 * \brief What runs elsewhere than it was built for, because its user allowed it.
 */
#ifndef HETERO_TVM_RUNTIME_FALLBACKS_H_
#define HETERO_TVM_RUNTIME_FALLBACKS_H_

#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/string.h>

#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "settings.h"

namespace hetero_tvm::runtime {

/*! \brief Whether they are allowed, and those that there were. Thread-safe. */
class Fallbacks {
 public:
  explicit Fallbacks(const Settings& settings) : settings_(settings) {}

  /*! \brief Whether work may go where it was not built for: `fallback.allow` is 1. */
  bool AreAllowed() const { return settings_.Get("fallback.allow") == "1"; }

  /*! \brief Say `what` on standard error, and keep it for Told(). */
  void Tell(const std::string& what) {
    {
      const std::scoped_lock lock(mutex_);
      told_.push_back(what);
    }
    std::fprintf(stderr, "hetero_tvm: %s\n", what.c_str());
    std::fflush(stderr);
  }

  /*! \brief Everything that Tell() said in this process, a list as JSON. */
  tvm::ffi::String Told() const {
    const std::scoped_lock lock(mutex_);
    tvm::ffi::json::Array told;
    for (const std::string& one : told_) told.push_back(tvm::ffi::String(one));
    return tvm::ffi::json::Stringify(told);
  }

 private:
  const Settings& settings_;
  mutable std::mutex mutex_;  // guards told_; taken for a look only
  std::vector<std::string> told_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_FALLBACKS_H_
