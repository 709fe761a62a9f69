// Threads that wait for work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace {

class Pool {
 public:
  // The caller of `run` is one of the threads.
  explicit Pool(int threads) {
    try {
      for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }

  int threads() const { return int(workers_.size()) + 1; }

  // Call task(0), ..., task(threads - 1), each in a thread of its own; what one throws is thrown when all are done.
  void run(const std::function<void(int)>& task) {
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      missing_ = int(workers_.size());
      ++round_;
      error_ = nullptr;
    }
    if (!workers_.empty()) begun_.notify_all();
    attempt(task, 0);
    for (int spin = 0; spin < SPINS && missing_; ++spin) std::this_thread::yield();  // sooner than sleep and be woken
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return missing_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    begun_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void work(int worker) {
    for (unsigned seen = 0;;) {
      std::unique_lock lock(mutex_);
      begun_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      const std::function<void(int)>* task = task_;
      lock.unlock();
      attempt(*task, worker);
      lock.lock();
      if (--missing_ == 0) done_.notify_one();
    }
  }

  void attempt(const std::function<void(int)>& task, int worker) {
    try {
      task(worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable begun_, done_;
  const std::function<void(int)>* task_ = nullptr;
  std::exception_ptr error_;
  static constexpr int SPINS = 1000;
  std::atomic<int> missing_ = 0;
  unsigned round_ = 0;
  bool stop_ = false;
};

}  // namespace
