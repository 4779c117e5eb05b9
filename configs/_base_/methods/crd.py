# CRD as its authors have it: 0.8 at the pooled features, beside cross entropy;
# negatives are images of other classes.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.pooled,
        distill_losses=dict(
            loss_crd=dict(
                type='CRDLoss',
                # For r32x4 and r8x4. A pair with other widths sets others.
                student_channels=256,
                teacher_channels=256,
                num_samples=50_000,
                loss_weight=0.8,
            )
        ),
        loss_forward_mappings=dict(
            loss_crd=dict(
                **_base_.pooled_preds, sample_idx=dict(from_batch='sample_idx')
            )
        ),
    )
)
